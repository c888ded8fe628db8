//! The threads that turn picture bytes into crops.
//!
//! Owns P operating-system threads between the queue of undecoded images and the vision queue. Does not own how a picture is
//! decoded (`image`, `resample`) or who may queue one (`batch`).
//!
//! Invariants: a picture that cannot be decoded, or whose decoder panics, fails its own job only and is answered from here; a
//! job that died is dropped before its decode and again before its resize, or where rows are resized while they are decoded, between
//! these; the threads end when the input queue is closed and empty.
//!
//! Times of decode and resize are those that went into each, however they take turns.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};

use bytes::Bytes;

use super::image::{ImageError, ImageFormatName, ImageProcessor, Progress, decode_work};
use crate::{
    batch::{Job, JobError, JobHead, JobQueue, Speed, Takes},
    encoder::{InputError, InputErrorKind, PixelBuf},
    telemetry::{Metrics, Outcome},
};

/// The running threads.
#[derive(Debug)]
pub struct PreprocessPool(Vec<JoinHandle<()>>);

/// What the threads share.
#[derive(Debug)]
pub struct Stage {
    /// Each thread has a clone of its own.
    pub processor: ImageProcessor,
    /// Where files come from.
    pub input: Arc<JobQueue<Bytes>>,
    /// Where crops go.
    pub output: Arc<JobQueue<PixelBuf>>,
    /// Told how long each picture took, in units of [`decode_work`].
    pub speed: Arc<Speed>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

/// By how much the priority of the threads that take large pictures and large requests is lowered (`nice`): what they do is waited for
/// less than runs and answers are. While cores are free it changes nothing.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

impl PreprocessPool {
    /// Starts `threads` threads, and two where that is one: one of them is kept for pictures that are not large, the others have a lower
    /// priority.
    ///
    /// # Errors
    /// When the operating system has no thread to give.
    pub fn start(threads: usize, stage: Stage) -> io::Result<Self> {
        let stage = Arc::new(stage);
        let threads = threads.max(2);
        let spawn = |i| {
            let stage = Arc::clone(&stage);
            thread::Builder::new().name(format!("preprocess-{i}")).spawn(move || stage.run(i == 0))
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
    fn run(&self, is_kept: bool) {
        // On Linux it is a thread's own. One that may not be lowered works as well.
        #[cfg(target_os = "linux")]
        if !is_kept && let Err(error) = rustix::process::nice(NICE) {
            tracing::debug!(%error, "the priority of a thread that decodes could not be lowered");
        }
        let takes = if is_kept { Takes::Small } else { Takes::All };
        let mut processor = self.processor.clone();
        while let Some(Job { input, head }) = self.input.take(takes) {
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

    fn process(&self, processor: &mut ImageProcessor, bytes: &Bytes, mut head: JobHead, started: Instant) {
        let is_wanted = || head.is_alive(Instant::now());
        let mut progress = Progress::new(&is_wanted);
        let done = catch_unwind(AssertUnwindSafe(|| processor.process_while(bytes, &mut progress)));
        let (took, resize) = (started.elapsed(), progress.resize());
        self.metrics.decode.observe(took.saturating_sub(resize).as_secs_f64());
        let crop = match done {
            Ok(Ok(Some(crop))) => crop,
            Ok(Ok(None)) => {
                // Dead, as it was then.
                let _ = head.if_alive(Instant::now(), &self.metrics.vision);
                return;
            }
            Ok(Err(error)) => return self.refuse(head, error),
            // Not the picture's fault.
            Err(panic) if progress.is_resizing() => resume_unwind(panic),
            Err(_) => {
                *processor = self.processor.clone();
                self.metrics.preprocess_panics.inc();
                let message = "the picture cannot be decoded".to_owned();
                return self.fail(head, JobError::Input(InputError { kind: InputErrorKind::InvalidImage, message }));
            }
        };
        self.metrics.resize.observe(resize.as_secs_f64());
        self.speed.observe(decode_work(bytes), took);
        head.preprocessed(took);
        self.output.push(Job { input: crop, head });
    }

    fn refuse(&self, head: JobHead, error: ImageError) {
        let format = error.format().map_or("unknown", ImageFormatName::as_str);
        self.metrics.image_rejected.with_label_values(&[format, error.reason()]).inc();
        if let Some(detail) = error.detail() {
            head.span().in_scope(|| tracing::debug!(format, detail, "a picture was refused"));
        }
        self.fail(head, error.into());
    }

    fn fail(&self, head: JobHead, error: JobError) {
        let outcome = if matches!(error, JobError::Input(_)) { Outcome::Invalid } else { Outcome::Failed };
        self.metrics.vision.items(outcome).inc();
        head.fail(error);
    }
}

impl From<ImageError> for JobError {
    fn from(error: ImageError) -> Self {
        let kind = match error {
            ImageError::OutOfMemory => return Self::OutOfMemory,
            ImageError::UnsupportedFormat { .. } | ImageError::GivenUp { .. } => InputErrorKind::UnsupportedImage,
            _ => InputErrorKind::InvalidImage,
        };
        Self::Input(InputError { kind, message: error.to_string() })
    }
}
