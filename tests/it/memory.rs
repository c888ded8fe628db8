//! Memory that the machine does not have: what becomes of a picture that needs it, and of the process.
//!
//! The real binary, whose address space is bounded while it runs by a little more than it has when it is ready: whatever a picture
//! needs beyond that is refused by the system, as on a machine that lacks it.

use std::{io::Cursor, path::Path};

use image::{DynamicImage, GrayImage, ImageFormat, Luma};
use reqwest::{Client, Response};

use crate::{
    lifecycle::{Running, serve},
    support::{error, fixture, json, picture},
};

/// 49 megapixels, of one colour, so that their files are small.
const SIDE: u32 = 7000;

/// Less than the pixels of any of the pictures in one byte each, and more than the service needs for a small one, or for one whose rows are
/// resized as they come.
const TIGHT: u64 = 40 << 20;

/// Those whose rows are.
const BY_ROW: [&str; 2] = ["baseline JPEG", "PNG"];

/// Enough for the answer of each decoder (147 MB of RGB) and not for what some of them need besides.
const LESS_TIGHT: u64 = 200 << 20;

/// A service whose address space can be bounded.
struct Bounded {
    running: Running,
    url: String,
    client: Client,
}

impl Bounded {
    async fn start() -> Self {
        let mut command = serve(&fixture("tiny-clip"), &[]);
        // The C library reserves much of an address space for each thread's own heap, which is no memory yet.
        command.env("MALLOC_ARENA_MAX", "1");
        let running = Running::spawn(command);
        let url = format!("http://{}", running.address());
        running.until("ready");
        let service = Self { running, url, client: Client::new() };
        // What is taken for the first picture only.
        json(service.post(picture("cat_420.jpg")).await, 200).await;
        service
    }

    async fn post(&self, bytes: Vec<u8>) -> Response {
        let request = self.client.post(format!("{}/embed/image", self.url)).header("content-type", "image/jpeg");
        request.body(bytes).send().await.expect("the process lives")
    }

    async fn metric(&self, series: &str) -> f64 {
        let metrics = self.client.get(format!("{}/metrics", self.url)).send().await.expect("the process lives");
        let text = metrics.text().await.expect("text");
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no metric {series} in:\n{text}")).parse().expect("a number")
    }

    /// Bounds the address space by what is taken of it now and `more`.
    fn allow(&self, more: u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.running.id())).expect("a process");
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("a size");
        let kilobytes: u64 = size.trim().trim_end_matches(" kB").parse().expect("a number");
        self.bound(kilobytes * 1024 + more);
    }

    /// Takes the bound away.
    fn allow_all(&self) {
        self.bound(libc::RLIM_INFINITY);
    }

    fn bound(&self, bytes: u64) {
        let pid = i32::try_from(self.running.id()).expect("a pid");
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the limit is read during the call, nothing is written, and the process is a child that has not been waited for.
        #[expect(unsafe_code, reason = "no safe crate among the dependencies sets limits")]
        let result = unsafe { libc::prlimit(pid, libc::RLIMIT_AS, &limit, std::ptr::null_mut()) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
}

/// A picture of each format; their decoders take memory in different places.
fn large_pictures() -> Vec<(&'static str, Vec<u8>)> {
    let grey = GrayImage::from_pixel(SIDE, SIDE, Luma([99]));
    let encoded = |image: &DynamicImage, format| {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).expect("a picture");
        bytes.into_inner()
    };
    let baseline = {
        let side = SIDE as usize;
        let format = turbojpeg::PixelFormat::GRAY;
        let image = turbojpeg::Image { pixels: &grey.as_raw()[..], width: side, pitch: side, height: side, format };
        turbojpeg::compress(image, 90, turbojpeg::Subsamp::Gray).expect("a JPEG").to_vec()
    };
    let progressive = {
        let mut transform = turbojpeg::Transform::default();
        transform.progressive = true;
        turbojpeg::transform(&transform, &baseline).expect("a JPEG").to_vec()
    };
    let gif = {
        let mut bytes = Vec::new();
        let side = SIDE as u16;
        let mut encoder = gif::Encoder::new(&mut bytes, side, side, &[9, 9, 9, 1, 1, 1]).expect("a GIF");
        let buffer = vec![0; grey.as_raw().len()].into();
        encoder.write_frame(&gif::Frame { width: side, height: side, buffer, ..Default::default() }).expect("a frame");
        drop(encoder);
        bytes
    };
    let grey = DynamicImage::ImageLuma8(grey);
    let png = encoded(&grey, ImageFormat::Png);
    let webp = encoded(&DynamicImage::ImageRgb8(grey.into_rgb8()), ImageFormat::WebP);
    vec![
        ("baseline JPEG", baseline),
        ("progressive JPEG", progressive),
        ("PNG", png),
        ("WebP", webp),
        ("GIF", gif),
        ("BMP", bmp()),
        ("TIFF", tiff()),
    ]
}

/// A black BMP of one bit a pixel.
fn bmp() -> Vec<u8> {
    let row = SIDE.div_ceil(32) * 4;
    let header: Vec<u8> =
        [40, SIDE, SIDE, 0x1_0001, 0, 0, 0, 0, 2, 0, 0, 0xff_ffff].into_iter().flat_map(u32::to_le_bytes).collect();
    let mut bytes = [b"BM\0\0\0\0\0\0\0\0\x3e\0\0\0".as_slice(), &header].concat();
    bytes.resize(bytes.len() + (row * SIDE) as usize, 0);
    bytes
}

/// A black TIFF of one bit a pixel, in one strip.
fn tiff() -> Vec<u8> {
    let strip = SIDE.div_ceil(8) * SIDE;
    let entry = |(tag, value): (u16, u32)| [&tag.to_le_bytes()[..], b"\x04\0\x01\0\0\0", &value.to_le_bytes()].concat();
    let tags =
        [(256, SIDE), (257, SIDE), (258, 1), (259, 1), (262, 1), (273, 122), (277, 1), (278, SIDE), (279, strip)];
    let entries: Vec<u8> = tags.into_iter().flat_map(entry).collect();
    let mut bytes = [b"II*\0\x08\0\0\0\x09\0".as_slice(), &entries, &[0; 4]].concat();
    assert_eq!(bytes.len(), 122, "where the strip begins");
    bytes.resize(122 + strip as usize, 0);
    bytes
}

/// Megabytes that a service of the model in the box has when it is ready.
fn resident(cache: &Path, set: &[&str]) -> u64 {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/emoji-clip");
    let set: Vec<&str> = set.iter().flat_map(|pair| ["--set", pair]).collect();
    let running = Running::spawn(serve(&model, &[&["--cache-dir", cache.to_str().expect("UTF-8")], &set[..]].concat()));
    running.until("ready");
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.id())).expect("a process");
    let size = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    size.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[test]
fn sessions_of_one_thread_have_the_weights_once() {
    let cache = tempfile::tempdir().expect("a folder");
    let many = ["engine.vision.sessions=16", "engine.text.sessions=16"];
    let one = resident(cache.path(), &["engine.intra_threads=1"]);
    let shared = resident(cache.path(), &[&many[..], &["engine.intra_threads=1"]].concat());
    // With threads inside a run each has its own: of 16 MB both towers, 15 times more.
    let copies = resident(cache.path(), &[&many[..], &["engine.intra_threads=2"]].concat());
    assert!(shared < one + 60 && copies > one + 150, "{one}, {shared} and {copies} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_there_is_no_memory_for_is_refused_as_our_fault_and_served_when_there_is() {
    let service = Bounded::start().await;
    let pictures = large_pictures();

    service.allow(TIGHT);
    for (name, bytes) in &pictures {
        let response = service.post(bytes.clone()).await;
        if BY_ROW.contains(name) {
            assert_eq!(response.status(), 200, "{name}");
            continue;
        }
        assert!(["1", "2"].iter().any(|seconds| response.headers()["retry-after"] == *seconds), "{name}");
        let message = error(response, 503, "out_of_memory").await;
        assert!(message.contains("short of memory") && message.contains("smaller"), "{name}: {message}");
        // Nobody else pays for it.
        json(service.post(picture("cat_420.jpg")).await, 200).await;
    }
    let refused = (pictures.len() - BY_ROW.len()) as f64;
    let rejected = r#"clipserve_image_rejected_total{format="unknown",reason="out_of_memory"}"#;
    assert_eq!(service.metric(rejected).await, refused);
    assert_eq!(service.metric(r#"clipserve_items_total{modality="image",outcome="failed"}"#).await, refused);

    service.allow(LESS_TIGHT);
    for (name, bytes) in &pictures {
        match *name {
            // Its coefficients take 98 MB, and its rows none.
            "progressive JPEG" => assert_eq!(service.post(bytes.clone()).await.status(), 200),
            "WebP" => {
                let message = error(service.post(bytes.clone()).await, 503, "out_of_memory").await;
                assert!(message.contains("short of memory"), "{name}: {message}");
            }
            _ => {}
        }
    }

    service.allow_all();
    for (name, bytes) in pictures {
        assert_eq!(service.post(bytes).await.status(), 200, "{name}");
    }
}
