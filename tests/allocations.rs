//! How often the steady state asks for memory: one more picture, one more text, one more request; and how much of it a request takes that
//! is refused.
//!
//! A target of its own, since its allocator counts for the whole process. Counted is what Rust code asks for; libjpeg and ONNX
//! Runtime, which are C and C++, ask the C library: of a run, the pages that the system hands out are counted. No time is measured.
//! Bounds are what is seen, with room for another version of a dependency, and far below what one more copy of a picture, or one more
//! allocation a row or token, would make.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use clipserve::{
    config::{self, Overrides, Precision},
    embedder,
    encoder::{Encoder, PixelBuf},
    engine::{Engine, Normalization},
    export::write_synthetic_model,
    model::{
        Graphs, clip_config::ClipConfig, pictures::PicturePreparation, preprocessor::PreprocessorConfig,
        texts::Tokenization,
    },
    preprocess::{
        image::{ImageOptions, ImageProcessor},
        text::TextTokenizer,
    },
    server::{LoadContext, ServeError, Server},
};

/// The system's allocator, counted.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// By all threads.
static ALL_COUNT: AtomicUsize = AtomicUsize::new(0);
static ALL_BYTES: AtomicUsize = AtomicUsize::new(0);
/// Bytes that are held, and the most that ever were since this was set back.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// By this thread. Constant and without a destructor, so that reading it allocates nothing.
    static OWN: Cell<Taken> = const { Cell::new(Taken { count: 0, bytes: 0 }) };
}

/// Allocations and the bytes they asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Taken {
    count: usize,
    bytes: usize,
}

fn count(bytes: usize) {
    ALL_COUNT.fetch_add(1, Ordering::Relaxed);
    ALL_BYTES.fetch_add(bytes, Ordering::Relaxed);
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
    // A thread that is ending has no storage of its own left; its allocations are nobody's.
    let _ = OWN.try_with(|own| own.set(Taken { count: own.get().count + 1, bytes: own.get().bytes + bytes }));
}

#[expect(unsafe_code, reason = "an allocator is unsafe to implement")]
// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller keeps `realloc`'s contract, and all memory is the system's.
        let moved = unsafe { System.realloc(memory, layout, size) };
        // Until then both may have been there.
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        moved
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract, and all memory is the system's.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// What `work` takes on this thread.
fn taken<T>(work: impl FnOnce() -> T) -> Taken {
    let before = OWN.get();
    let result = work();
    let after = OWN.get();
    drop(result);
    Taken { count: after.count - before.count, bytes: after.bytes - before.bytes }
}

/// Tests that count all threads' allocations run one at a time; the others may run beside each other, but not beside those.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fixture(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn picture(name: &str) -> Vec<u8> {
    fs::read(fixture("images").join(name)).expect("the fixture")
}

#[track_caller]
fn assert_within(what: &str, taken: Taken, count: usize, bytes: usize) {
    assert!(taken.count <= count && taken.bytes <= bytes, "{what}: {taken:?}, allowed are {count} of {bytes} bytes");
}

#[test]
fn a_jpeg_takes_its_crop_and_nothing_else() {
    const CROP: usize = 224 * 224 * 3;
    let _alone = alone();
    for (name, fast_decode) in [
        ("photo_640x480.jpg", false),
        ("cat_exif_6.jpg", false),
        ("tall_333x777.jpg", false),
        ("coffee_cmyk.jpg", false),
        ("coffee_large.jpg", false),
        ("coffee_large.jpg", true),
    ] {
        let options = ImageOptions { exif_orientation: true, fast_decode, max_pixels: 50_000_000 };
        let config = PicturePreparation::Transformers(PreprocessorConfig::from_json("{}").expect("the defaults"));
        let mut processor = ImageProcessor::new(&config, options).expect("supported");
        let bytes = picture(name);
        for _ in 0..2 {
            processor.process(&bytes).expect("a picture");
        }
        assert_within(name, taken(|| processor.process(&bytes)), 1, CROP);
    }
}

#[test]
fn a_png_takes_its_crop_and_what_its_decoder_takes() {
    let _alone = alone();
    let options = ImageOptions { exif_orientation: true, fast_decode: false, max_pixels: 50_000_000 };
    let config = PicturePreparation::Transformers(PreprocessorConfig::from_json("{}").expect("the defaults"));
    let mut processor = ImageProcessor::new(&config, options).expect("supported");
    let bytes = picture("astronaut.png");
    for _ in 0..2 {
        processor.process(&bytes).expect("a picture");
    }
    // The 786,432 bytes of its 512 x 512 pixels are not among them.
    assert_within("astronaut.png", taken(|| processor.process(&bytes)), 20, 600_000);
}

/// A picture of 12 megapixels as JPEG, upright and on its side, and as PNG.
fn large() -> [(&'static str, Vec<u8>); 3] {
    let (width, height) = (LARGE.0 as usize, LARGE.1 as usize);
    let pixels: Vec<u8> = (0..width * height * 3).map(|at| (at / 3 % width / 16 + at / 3 / width / 8) as u8).collect();
    let format = turbojpeg::PixelFormat::RGB;
    let image = turbojpeg::Image { pixels: &pixels[..], width, pitch: width * 3, height, format };
    let jpeg = turbojpeg::compress(image, 90, turbojpeg::Subsamp::Sub2x2).expect("a JPEG").to_vec();
    let exif = b"\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let side = [&jpeg[..2], exif, &jpeg[2..]].concat();
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, LARGE.0, LARGE.1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fast);
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels)).expect("a PNG");
    [("JPEG", jpeg), ("JPEG on its side", side), ("PNG", file)]
}

const LARGE: (u32, u32) = (4000, 3000);

#[test]
fn a_large_picture_is_resized_without_memory_for_its_pixels() {
    const PIXELS: usize = (LARGE.0 * LARGE.1 * 3) as usize;
    let _alone = alone();
    for (name, bytes) in large() {
        for fast_decode in [false, true] {
            let options = ImageOptions { exif_orientation: true, fast_decode, max_pixels: 50_000_000 };
            let config = PicturePreparation::Transformers(PreprocessorConfig::from_json("{}").expect("the defaults"));
            // A new one, which keeps nothing from the picture before.
            let mut processor = ImageProcessor::new(&config, options).expect("supported");
            let all = taken(|| processor.process(&bytes).expect("a picture")).bytes;
            assert!(all < PIXELS / 4, "{name}: {all} bytes, of {PIXELS} of the picture");
        }
    }
}

/// Pages that the system has handed to this process.
#[cfg(target_os = "linux")]
fn pages() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("on Linux");
    // After the name, which may hold anything, `minflt` is the eighth field.
    let fields = stat.rsplit_once(')').expect("a name in brackets").1;
    fields.split_whitespace().nth(7).and_then(|faults| faults.parse().ok()).expect("a number")
}

#[test]
#[cfg(target_os = "linux")]
fn a_run_keeps_the_memory_of_the_one_before() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let tower = r#"{"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_hidden_layers": 2,
        "image_size": 64, "patch_size": 8}"#;
    let clip =
        ClipConfig::from_json(&format!(r#"{{"projection_dim": 64, "vision_config": {tower}}}"#)).expect("a tower");
    let model = write_synthetic_model(&clip, Precision::F32, 7, &fixture("tiny-clip"), &dir.path().join("model"));
    let graphs = Graphs::Embedding(model.expect("exported").vision.expect("a vision tower"));
    let set = ["model.path=m", "engine.provider=cpu", "engine.precision=f32"].map(str::to_owned).to_vec();
    let config = config::load(&Overrides { set, ..Overrides::default() }, []).expect("valid").config.engine;
    let engine = Arc::new(Engine::start(&config).expect("the CPU provider"));
    let none = Normalization { rescale_factor: None, mean_std: None };
    let mut encoder = engine.vision(&graphs, &none, 1).expect("a vision graph").remove(0).encoder;
    let crops: Vec<PixelBuf> = (0..16).map(|i| PixelBuf::new(64, 64, vec![16 * i; 64 * 64 * 3])).collect();
    for _ in 0..2 {
        encoder.encode(&crops).expect("a run");
    }
    let before = pages();
    for _ in 0..10 {
        encoder.encode(&crops).expect("a run");
    }
    // One tensor of the MLP alone has 1560 pages.
    let taken = (pages() - before) / 10;
    assert!(taken <= 100, "a run took {taken} pages");
}

#[test]
fn a_text_takes_small_change_of_its_tokenizer() {
    let _alone = alone();
    let tokenizer =
        TextTokenizer::open(&Tokenization::Transformers(fixture("tiny-clip/tokenizer.json")), 77, 16 << 10, None)
            .expect("the fixture");
    let text = "a photo of a cat on a red sofa";
    for _ in 0..2 {
        tokenizer.tokenize(text, true).expect("a text");
    }
    assert_within("a text", taken(|| tokenizer.tokenize(text, true)), 400, 40_000);
}

/// One connection to a server in this process, whose own side allocates nothing once it is warm.
struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        Self { stream, answer: vec![0; 64 << 10] }
    }

    /// Sends a whole request and reads the answer, which must have this status. Returns its length without the head.
    fn ask(&mut self, request: &[u8], status: &str) -> usize {
        self.stream.write_all(request).expect("the server reads");
        let mut length = 0;
        loop {
            length += self.stream.read(&mut self.answer[length..]).expect("the server answers");
            let answer = &self.answer[..length];
            let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let text = std::str::from_utf8(&answer[..head]).expect("a head is ASCII");
            assert_eq!(text.get(9..12), Some(status), "{}", String::from_utf8_lossy(answer));
            let body = text.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
            let body = body.parse::<usize>().expect("a number");
            if length == head + 4 + body {
                return body;
            }
        }
    }
}

fn request(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The least that one of 20 times so many requests takes in the whole process: what else runs there, such as the watchdog, can only add to
/// one, but for what is done behind an answer, which may be counted with the request that follows.
fn least(connection: &mut Connection, request: &[u8], requests: usize) -> Taken {
    for _ in 0..5 {
        connection.ask(request, "200");
    }
    let one = || {
        let before = (ALL_COUNT.load(Ordering::SeqCst), ALL_BYTES.load(Ordering::SeqCst));
        for _ in 0..requests {
            connection.ask(request, "200");
        }
        Taken { count: ALL_COUNT.load(Ordering::SeqCst) - before.0, bytes: ALL_BYTES.load(Ordering::SeqCst) - before.1 }
    };
    std::iter::repeat_with(one).take(20).min().expect("20 times")
}

/// A server in this process with one I/O thread.
struct Running {
    address: SocketAddr,
    runtime: tokio::runtime::Runtime,
    stop: tokio::sync::oneshot::Sender<()>,
    running: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl Running {
    /// The fixture model, with these `section.key=value`; returns when it is ready.
    fn start(set: &[&str]) -> Self {
        let model = format!("model.path={}", fixture("tiny-clip").display());
        let all = [
            &model,
            "server.listen=127.0.0.1:0",
            "server.shutdown_delay=0ms",
            "engine.provider=cpu",
            "engine.intra_threads=1",
            "preprocess.threads=1",
        ];
        let set = all.iter().chain(set).map(|&pair| pair.to_owned()).collect();
        let config = config::load(&Overrides { set, ..Overrides::default() }, []).expect("a configuration").config;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (address, running) = runtime.block_on(async {
            let server = Server::bind(config.clone()).await.expect("a free port");
            let address = server.local_addr();
            let load = move |context: LoadContext| embedder::start(&config, context.metrics, &context.health);
            let running = tokio::spawn(server.run(load, async {
                let _ = stopped.await;
            }));
            (address, running)
        });
        wait_until_ready(address);
        Self { address, runtime, stop, running }
    }

    /// Once every connection is closed.
    fn stop(self) {
        self.stop.send(()).expect("the server runs");
        self.runtime.block_on(self.running).expect("no panic").expect("a clean drain");
    }
}

#[test]
fn a_request_takes_its_body_its_crop_and_small_change() {
    let _alone = alone();
    // The same request again and again: each is to be computed.
    let server = Running::start(&["cache.max_bytes=0"]);
    let mut connection = Connection::open(server.address);
    let jpeg = picture("photo_640x480.jpg");
    let image = least(&mut connection, &request("/embed/image", "image/jpeg", &jpeg), 1);
    let text = least(&mut connection, &request("/embed/text", "text/plain", b"a photo of a cat on a red sofa"), 1);
    // The body twice: in the pieces in which it comes, and together.
    assert_within("an image request", image, 120, 224 * 224 * 3 + 2 * jpeg.len() + 20_000);
    assert_within("a text request", text, 500, 60_000);
    drop(connection);
    server.stop();
}

#[test]
fn a_trace_that_nobody_wants_takes_nothing() {
    const REQUESTS: usize = 20;
    let _alone = alone();
    let server = Running::start(&[]);
    let mut connection = Connection::open(server.address);
    let mut with = |header: &str| {
        let request = request("/embed/text", "text/plain", b"a photo of a cat on a red sofa");
        let line = request.iter().position(|&byte| byte == b'\n').expect("a first line") + 1;
        least(&mut connection, &[&request[..line], header.as_bytes(), &request[line..]].concat(), REQUESTS)
    };
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (unknown, known) = (with(&format!("xraceparent: {trace}\r\n")), with(&format!("traceparent: {trace}\r\n")));
    // One for each request would be more than that.
    assert!(known.count < unknown.count + REQUESTS / 2, "{known:?} with a trace, {unknown:?} without");
    drop(connection);
    server.stop();
}

#[test]
fn a_request_that_is_refused_takes_its_body_and_small_change() {
    const BODY: usize = 8 << 20;
    let _alone = alone();
    let server = Running::start(&["limits.max_body_bytes=9MiB", "limits.max_inflight_body_bytes=16MiB"]);
    let filled = |before: &str, item: &str, after: &str| format!("{before}{}{after}", item.repeat(BODY / item.len()));
    let json = "application/json";
    // Prompts of 16 KiB each, 16 MiB in all, of 256 KiB.
    let labels = vec!["l".repeat(8 << 10); 32];
    let bomb = serde_json::json!({"images": "QUJD", "labels": labels, "templates": vec!["{}{}"; 32]}).to_string();
    for (what, path, content_type, body, status) in [
        ("empty texts", "/embed/text", json, filled(r#"{"texts": ["#, r#""","#, r#"""]}"#), "413"),
        ("empty rows", "/similarity", json, filled(r#"{"texts": "a", "image_embeds": ["#, "[],", "[]]}"), "413"),
        ("empty labels", "/classify", json, filled(r#"{"images": "a", "labels": ["#, r#""","#, r#"""]}"#), "413"),
        ("a long row", "/similarity", json, filled(r#"{"texts": "a", "image_embeds": [["#, "1,", "1]]}"), "400"),
        ("a key", "/embed/text", json, filled("{\"", "k", r#"": 1}"#), "400"),
        ("an escaped key", "/embed/text", json, filled("{\"", "\\u0041", r#"": 1}"#), "400"),
        ("an option", "/embed/text", json, filled(r#"{"texts": "a", "padding": ""#, "p", r#""}"#), "400"),
        ("members", "/embed/text", json, filled("{", r#""a":1,"#, r#""a":1}"#), "400"),
        ("depth", "/embed/text", json, filled(r#"{"texts": "#, "[", ""), "400"),
        ("no object", "/embed/text", json, filled("\"", "s", "\""), "400"),
        ("a data URL", "/embed/image", json, filled(r#"{"images": "data:"#, "d", r#",QUJD"}"#), "400"),
        ("a head", "/embed/image", "multipart/form-data; boundary=x", filled("--x\r\na: ", "h", "\r\n\r\n"), "400"),
        ("prompts", "/classify", json, bomb, "413"),
    ] {
        let request = request(path, content_type, body.as_bytes());
        let mut connection = Connection::open(server.address);
        let before = LIVE.load(Ordering::SeqCst);
        PEAK.store(before, Ordering::SeqCst);
        let answer = connection.ask(&request, status);
        let taken = PEAK.load(Ordering::SeqCst) - before;
        assert!(taken <= body.len() + (2 << 20), "{what} of {} bytes took {taken}", body.len());
        assert!(answer <= 1500, "{what}: an answer of {answer} bytes");
    }
    server.stop();
}

fn wait_until_ready(address: SocketAddr) {
    loop {
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        if answer.starts_with("HTTP/1.1 200") {
            return;
        }
        std::thread::yield_now();
    }
}
