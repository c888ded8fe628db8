//! A tensor in a file, whatever the file's format: what it is is known, and its bytes are still there.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::export::error::ExportError;

/// What a tensor's elements are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    BF16,
    /// No float, or one that no CLIP has; as its format names it.
    Other(String),
}

/// One tensor in a file.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) element: Element,
    pub(super) shape: Vec<usize>,
    path: Arc<PathBuf>,
    read: Arc<dyn Fn() -> io::Result<Vec<u8>>>,
}

impl Stored {
    /// Of the file `path`; `read` gives the elements, row-major and little-endian, as many as `shape` has.
    pub(super) fn new(
        path: &Arc<PathBuf>,
        element: Element,
        shape: Vec<usize>,
        read: impl Fn() -> io::Result<Vec<u8>> + 'static,
    ) -> Self {
        Self { element, shape, path: Arc::clone(path), read: Arc::new(read) }
    }

    /// The bytes of all elements.
    pub(super) fn read(&self) -> Result<Vec<u8>, ExportError> {
        (self.read)().map_err(ExportError::io(Path::new(&*self.path)))
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} in {}", self.element, self.shape, self.path.display())
    }
}
