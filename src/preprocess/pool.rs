//! The threads that turn picture bytes into crops.
//!
//! Owns P operating-system threads between the queue of undecoded images and the vision queue. Does not own how a picture is
//! decoded (`image`, `resample`) or who may queue one (`batch`).
//!
//! Invariants: a picture that cannot be decoded, or whose decoder panics, fails its own job only and is answered from here; a
//! job that died is dropped before its decode and again before its resize; the threads end when the input queue is closed and
//! empty.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};

use bytes::Bytes;

use super::image::{ImageError, ImageFormatName, ImageProcessor};
use crate::{
    batch::{Job, JobError, JobHead, JobQueue},
    encoder::{InputError, InputErrorKind, PixelBuf},
    telemetry::{Metrics, Outcome},
};

/// The running threads.
#[derive(Debug)]
pub struct PreprocessPool(Vec<JoinHandle<()>>);

/// What the threads share.
struct Stage {
    /// Each thread has a clone of its own.
    processor: ImageProcessor,
    input: Arc<JobQueue<Bytes>>,
    output: Arc<JobQueue<PixelBuf>>,
    metrics: Arc<Metrics>,
}

impl PreprocessPool {
    /// Starts `threads` threads from `input` to `output`.
    ///
    /// # Errors
    /// When the operating system has no thread to give.
    pub fn start(
        threads: usize,
        processor: ImageProcessor,
        input: Arc<JobQueue<Bytes>>,
        output: Arc<JobQueue<PixelBuf>>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let stage = Arc::new(Stage { processor, input, output, metrics });
        let spawn = |i| {
            let stage = Arc::clone(&stage);
            thread::Builder::new().name(format!("preprocess-{i}")).spawn(move || stage.run())
        };
        (0..threads).map(spawn).collect::<io::Result<_>>().map(Self)
    }

    /// Waits for the threads, which end when their input queue is closed and empty.
    pub fn join(self) {
        for thread in self.0 {
            // The loop contains panics; one that escapes has already been logged by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Stage {
    fn run(&self) {
        let mut processor = self.processor.clone();
        while let Some(Job { input, head }) = self.input.take() {
            let started = Instant::now();
            // The processor is thrown away after a panic, so no broken invariant of it can be seen.
            // All of it in the request's span, also a panic that the hook logs.
            let result = head
                .span()
                .clone()
                .in_scope(|| catch_unwind(AssertUnwindSafe(|| self.process(&mut processor, &input, head, started))));
            if result.is_err() {
                // The head went down with the panic, so its client has been told `Lost`.
                processor = self.processor.clone();
                self.metrics.preprocess_panics.inc();
            }
        }
    }

    fn process(&self, processor: &mut ImageProcessor, bytes: &Bytes, head: JobHead, started: Instant) {
        let decoded = catch_unwind(AssertUnwindSafe(|| processor.decode(bytes)));
        let decoded_at = Instant::now();
        self.metrics.decode.observe((decoded_at - started).as_secs_f64());
        let image = match decoded {
            Ok(Ok(image)) => image,
            Ok(Err(error)) => {
                let format = error.format().map_or("unknown", ImageFormatName::as_str);
                self.metrics.image_rejected.with_label_values(&[format, error.reason()]).inc();
                if let Some(detail) = error.detail() {
                    tracing::debug!(format, detail, "a picture was refused");
                }
                return self.refuse(head, error.into());
            }
            Err(_) => {
                *processor = self.processor.clone();
                self.metrics.preprocess_panics.inc();
                let message = "the picture cannot be decoded".to_owned();
                return self.refuse(head, InputError { kind: InputErrorKind::InvalidImage, message });
            }
        };
        let Some(mut head) = head.if_alive(decoded_at, &self.metrics.vision) else { return };
        let crop = processor.crop(image);
        self.metrics.resize.observe(decoded_at.elapsed().as_secs_f64());
        head.preprocessed(started.elapsed());
        self.output.push(Job { input: crop, head });
    }

    fn refuse(&self, head: JobHead, error: InputError) {
        self.metrics.vision.items(Outcome::Invalid).inc();
        head.fail(JobError::Input(error));
    }
}

impl From<ImageError> for InputError {
    fn from(error: ImageError) -> Self {
        let kind =
            if error.is_unsupported_format() { InputErrorKind::UnsupportedImage } else { InputErrorKind::InvalidImage };
        Self { kind, message: error.to_string() }
    }
}
