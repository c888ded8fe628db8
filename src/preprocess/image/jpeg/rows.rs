//! The rows of a JPEG as they are decoded, by libjpeg's own interface, which `rows.c` calls.
//!
//! Owns the calls into that file. What is no RGB afterwards is not for it, and what is coded without loss: `turbo` decodes these.
//! Invariant: rows, errors and verdicts are those of `turbo`, and the end of the file is looked at as there.

#![expect(unsafe_code, reason = "libjpeg is a C library")]

use std::{
    ffi::{CStr, c_char, c_int, c_uint},
    marker::{PhantomData, PhantomPinned},
    ops::Range,
    ptr::NonNull,
};

use super::{
    markers::End,
    turbo::{Verdict, judge},
};
use crate::preprocess::image::{
    error::{ImageError, ImageFormatName},
    reduction::Reduction,
    rows::RowSource,
};

/// Columns that are decoded beside those that are wanted: smooth up-sampling looks at the neighbour, and its colour may be that of four.
const COLUMNS_BESIDE: usize = 16;

/// What there is in C.
#[repr(C)]
struct Raw {
    _fields: [u8; 0],
    _no_value: PhantomData<(*mut u8, PhantomPinned)>,
}

unsafe extern "C" {
    fn jpeg_rows_new() -> *mut Raw;
    fn jpeg_rows_free(rows: *mut Raw);
    fn jpeg_rows_message(rows: *const Raw) -> *const c_char;
    fn jpeg_rows_has_warned(rows: *const Raw) -> c_int;
    fn jpeg_rows_at_end(rows: *const Raw) -> c_int;
    fn jpeg_rows_start(
        rows: *mut Raw,
        bytes: *const u8,
        length: usize,
        max_scans: c_int,
        stops_at_warning: c_int,
        denominator: c_uint,
        left: *mut c_uint,
        width: *mut c_uint,
    ) -> c_int;
    fn jpeg_rows_read(rows: *mut Raw, out: *mut u8, pitch: usize, count: c_uint) -> c_int;
    fn jpeg_rows_skip(rows: *mut Raw, count: c_uint) -> c_int;
    fn jpeg_rows_finish(rows: *mut Raw) -> c_int;
}

/// The rows of one JPEG.
pub(in crate::preprocess::image) struct Rows<'a> {
    handle: Handle,
    bytes: &'a [u8],
    format: ImageFormatName,
    end: End,
    max_scans: u32,
    reduction: Reduction,
    /// Columns of the reduced picture.
    columns: usize,
    /// Bytes of a row that is given; none before the beginning, and after a failure.
    pitch: Option<usize>,
}

struct Handle(NonNull<Raw>);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: it is from `jpeg_rows_new` and used by nobody else.
        unsafe { jpeg_rows_free(self.0.as_ptr()) }
    }
}

impl<'a> Rows<'a> {
    /// Those of a JPEG of so many columns (of the whole picture), as [`turbo::Jpeg::decode`](super::turbo::Jpeg) gives them.
    pub(super) fn new(
        bytes: &'a [u8],
        format: ImageFormatName,
        end: End,
        max_scans: u32,
        reduction: Reduction,
        columns: u32,
    ) -> Result<Self, ImageError> {
        // SAFETY: no precondition.
        let handle = NonNull::new(unsafe { jpeg_rows_new() }).map(Handle).ok_or(ImageError::OutOfMemory)?;
        // A marker cut short would be completed with what libjpeg makes up for an end.
        let bytes = if let End::Stopped { whole } = end { &bytes[..whole] } else { bytes };
        let columns = columns.div_ceil(reduction.denominator()) as usize;
        Ok(Self { handle, bytes, format, end, max_scans, reduction, columns, pitch: None })
    }

    /// What a call came to. Where it failed, no other may follow.
    fn check(&mut self, status: c_int) -> Result<(), ImageError> {
        if status == 0 {
            return Ok(());
        }
        self.pitch = None;
        let truncated = Err(ImageError::Truncated { format: self.format });
        // SAFETY: the handle is live.
        let at_end = unsafe { jpeg_rows_at_end(self.handle.0.as_ptr()) } != 0;
        match self.judge() {
            // It was to stop at the first warning, and did because the data had ended, after the last row.
            Err(ImageError::Truncated { .. }) if self.end == End::Open && at_end => Ok(()),
            Ok(Verdict::Damaged | Verdict::Sound) => truncated,
            Err(error) => Err(error),
        }
    }

    fn judge(&self) -> Result<Verdict, ImageError> {
        // SAFETY: the handle is live, and its message a C string that lasts until the next call.
        judge(&unsafe { CStr::from_ptr(jpeg_rows_message(self.handle.0.as_ptr())) }.to_string_lossy(), self.format)
    }

    /// The calls that may be made, between the beginning and a failure.
    fn started(&self) -> Result<(*mut Raw, usize), ImageError> {
        let pitch = self.pitch.ok_or(ImageError::Truncated { format: self.format })?;
        Ok((self.handle.0.as_ptr(), pitch))
    }
}

impl RowSource for Rows<'_> {
    fn begin(&mut self, wanted: Range<usize>) -> Result<Range<usize>, ImageError> {
        let left = wanted.start.saturating_sub(COLUMNS_BESIDE);
        let right = self.columns.min(wanted.end + COLUMNS_BESIDE);
        // Both sides are at most 65,535.
        let (mut first, mut width) = (left as c_uint, right.saturating_sub(left) as c_uint);
        // SAFETY: the handle is live and has not been started; the pointer and length are of one slice, which lives as long as this does;
        // the other two are of variables.
        let status = unsafe {
            jpeg_rows_start(
                self.handle.0.as_ptr(),
                self.bytes.as_ptr(),
                self.bytes.len(),
                c_int::try_from(self.max_scans).unwrap_or(c_int::MAX),
                (self.end == End::Open) as c_int,
                self.reduction.denominator(),
                &raw mut first,
                &raw mut width,
            )
        };
        self.check(status)?;
        self.pitch = Some(width as usize * 3);
        Ok(first as usize..(first + width) as usize)
    }

    fn skip(&mut self, rows: usize) -> Result<(), ImageError> {
        let (handle, _) = self.started()?;
        // SAFETY: the handle is live and started, and no call has failed.
        let status = unsafe { jpeg_rows_skip(handle, rows as c_uint) };
        self.check(status)
    }

    fn read(&mut self, out: &mut [u8]) -> Result<(), ImageError> {
        let (handle, pitch) = self.started()?;
        let rows = out.len() / pitch;
        // SAFETY: as in `skip`, and that many rows of so many bytes, which is what libjpeg's rows have, are in `out`.
        let status = unsafe { jpeg_rows_read(handle, out.as_mut_ptr(), pitch, rows as c_uint) };
        self.check(status)
    }

    fn finish(&mut self) -> Result<(), ImageError> {
        let (handle, _) = self.started()?;
        // SAFETY: as in `skip`.
        let status = unsafe { jpeg_rows_finish(handle) };
        self.check(status)?;
        // SAFETY: the handle is live.
        if unsafe { jpeg_rows_has_warned(handle) } == 0 {
            return Ok(());
        }
        match (self.judge(), self.end) {
            // Filled up by libjpeg; or whole, as `check` has found.
            (Err(ImageError::Truncated { .. }), End::Stopped { .. } | End::Open) => Ok(()),
            (Ok(Verdict::Damaged), End::Open) => Err(ImageError::Truncated { format: self.format }),
            (judged, _) => judged.map(drop),
        }
    }
}
