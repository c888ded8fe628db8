//! The traffic of a public service: pictures of many sizes and formats by several doors, texts, hostile files, clients that come and go.
//!
//! Owns what is asked, when, over which connections, and which answers each kind of request may have. Everything follows from the number
//! of the request, so two runs ask the same. Where the machine itself stands still for a while, nothing comes meanwhile, and how requests
//! end that were on their way then is told apart.
//!
//! Of 100 requests 60 are for JPEGs of 0.3 to 12 megapixels, 10 for PNGs, 5 for WebPs and GIFs, 20 for texts, and 5 are hostile: pictures
//! of these with bytes changed, cut off, or declared to be enormous, and JSON that is none. Some clients leave before their answer, some
//! connections are used for one request, others for many.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Buf, Bytes};
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use tokio::{
    sync::Semaphore,
    task::LocalSet,
    time::{sleep, sleep_until, timeout},
};

use super::{
    album, bodies,
    bodies::{JSON, object},
    raw,
    request::{Body, jpeg_start},
    still,
};
use crate::{
    Result,
    load::{
        connection::Connection,
        schedule::{Arrivals, Schedule},
    },
    services::Places,
};

/// Requests in flight at most; a client beyond them does not come.
const CLIENTS: usize = 256;

/// Connections of the closed loop that finds the capacity.
const CLOSED: usize = 8;

/// How long a client waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a connection is kept idle: shorter than the service keeps it.
const IDLE: Duration = Duration::from_secs(60);

/// What the clients that are still there at the end may take.
const DRAIN: Duration = Duration::from_secs(20);

/// How often the traffic is asked whether it goes on.
const LOOK: Duration = Duration::from_millis(50);

/// Of the requests, in 1000: whose client leaves early, within this time; and that open a connection of their own.
const LEAVES: u64 = 20;
const LEAVES_WITHIN: u64 = 30;
const NEW_CONNECTION: u64 = 100;

/// Files in the tests' folder that are asked for, besides the photograph.
const PNGS: [&str; 6] = [
    "astronaut.png",
    "cat_palette_transparent.png",
    "logo_rgba.png",
    "camera_gray.png",
    "wide_1000x335.png",
    "rocket.png",
];
const OTHERS: [&str; 4] = ["cat_lossy.webp", "cat_lossless.webp", "animated.gif", "cat_lossy.webp"];

/// What may be asked.
pub(crate) struct Traffic {
    /// JPEGs, with how many of 100 are of each, without the two bytes that they begin with.
    jpegs: Vec<(u64, Bytes)>,
    pngs: Vec<Bytes>,
    others: Vec<Bytes>,
}

/// Traffic that flows.
pub(crate) struct Running {
    stop: mpsc::Sender<()>,
    tally: Arc<Mutex<Tally>>,
    thread: JoinHandle<Result<()>>,
}

/// How many requests of which kind had which end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    ends: BTreeMap<(&'static str, String), u64>,
    failed: u64,
    first_failure: Option<String>,
}

/// One request.
struct Ask {
    kind: &'static str,
    request: Request<Body>,
    /// The statuses that it may have, besides 200 and 429.
    may: &'static [u16],
}

impl Traffic {
    /// Makes the pictures.
    pub(crate) fn new(places: &Places, photograph: &[u8]) -> Result<Self> {
        let sizes = [(55, 640, 480), (30, 1280, 960), (12, 2048, 1536), (3, 4000, 3000)];
        let jpegs = sizes.into_iter().map(|(share, width, height)| {
            let file = album::jpeg(photograph, width, height)?;
            Ok((share, Bytes::from(file).slice(2..)))
        });
        let file = |name: &&str| Ok(Bytes::from(fs::read(places.root.join("tests/fixtures/images").join(name))?));
        Ok(Self {
            jpegs: jpegs.collect::<Result<_>>()?,
            pngs: PNGS.iter().map(file).collect::<Result<_>>()?,
            others: OTHERS.iter().map(file).collect::<Result<_>>()?,
        })
    }

    /// Inputs whose embeddings must stay what they are.
    pub(crate) fn constant(&self) -> Vec<Vec<u8>> {
        let jpegs = self.jpegs.iter().take(2).map(|(_, rest)| [&jpeg_start(0)[..], rest].concat());
        let pictures = jpegs.chain(self.pngs.iter().chain(&self.others[..3]).map(|file| file.to_vec()));
        let texts = ["a photo of a cat", "", "two red houses beside a very old wooden bridge, at night"];
        let texts = texts.map(|text| raw::post("/embed/text", JSON, &object("texts", &format!("[\"{text}\"]"))));
        pictures.map(|file| raw::post("/embed/image", "application/octet-stream", &file)).chain(texts).collect()
    }

    /// Requests in a second that a closed loop gets answered.
    pub(crate) fn capacity(&self, address: SocketAddr, time: Duration) -> Result<f64> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guests = Rc::new(Guests::new(address));
        let (started, next) = (Instant::now(), RefCell::new(0_u64));
        LocalSet::new().block_on(&runtime, async {
            let clients = (0..CLOSED).map(|_| async {
                while started.elapsed() < time {
                    let number = next.replace_with(|number| *number + 1);
                    guests.serve(self.ask(number)?, number, false).await;
                }
                Result::Ok(())
            });
            futures_util::future::try_join_all(clients).await
        })?;
        let tally = guests.tally.lock().unwrap_or_else(PoisonError::into_inner);
        match &tally.first_failure {
            Some(failure) => Err(failure.clone().into()),
            None => Ok(tally.answered() as f64 / started.elapsed().as_secs_f64()),
        }
    }

    /// Lets `rate` requests a second come until it is stopped.
    pub(crate) fn start(&self, address: SocketAddr, rate: f64) -> Running {
        let traffic = Self { jpegs: self.jpegs.clone(), pngs: self.pngs.clone(), others: self.others.clone() };
        let tally = Arc::<Mutex<Tally>>::default();
        let (stop, stopped) = mpsc::channel();
        let shared = Arc::clone(&tally);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, traffic.flow(address, rate, shared, stopped))
        });
        Running { stop, tally, thread }
    }

    async fn flow(
        self,
        address: SocketAddr,
        rate: f64,
        tally: Arc<Mutex<Tally>>,
        stopped: mpsc::Receiver<()>,
    ) -> Result<()> {
        let guests = Rc::new(Guests { tally, ..Guests::new(address) });
        let places = Arc::new(Semaphore::new(CLIENTS));
        let mut started = tokio::time::Instant::now();
        for (number, after) in (1_u64..).zip(Schedule::new(Arrivals::Poisson, rate, 1)) {
            let late = tokio::time::Instant::now().saturating_duration_since(started + after);
            if late > still::LATE {
                started += late;
            }
            while started + after > tokio::time::Instant::now() {
                if stopped.try_recv() == Err(mpsc::TryRecvError::Disconnected) {
                    let _ = timeout(DRAIN, places.acquire_many(CLIENTS as u32)).await;
                    return Ok(());
                }
                sleep_until((started + after).min(tokio::time::Instant::now() + LOOK)).await;
            }
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                guests.note(("nobody", "no place among the clients".to_owned()));
                continue;
            };
            let (guests, ask) = (Rc::clone(&guests), self.ask(number)?);
            tokio::task::spawn_local(async move {
                guests.serve(ask, number, true).await;
                drop(place);
            });
        }
        Ok(())
    }

    fn ask(&self, number: u64) -> Result<Ask> {
        let mut random = fastrand::Rng::with_seed(number);
        match random.u64(0..100) {
            0..60 => self.jpeg(number, &mut random),
            60..70 => picture("PNG", &self.pngs, number, &mut random),
            70..75 => picture("WebP, GIF", &self.others, number, &mut random),
            75..95 => texts(number, &mut random),
            _ => self.hostile(&mut random),
        }
    }

    fn jpeg(&self, number: u64, random: &mut fastrand::Rng) -> Result<Ask> {
        let mut share = random.u64(0..100);
        let size = self.jpegs.iter().find(|(of_100, _)| {
            let here = share < *of_100;
            share = share.saturating_sub(*of_100);
            here
        });
        let (_, rest) = size.or(self.jpegs.first()).ok_or("there are sizes")?;
        door("JPEG", [Bytes::from(jpeg_start(number)), rest.clone()], random)
    }

    /// What is no picture, or not quite, or no JSON.
    fn hostile(&self, random: &mut fastrand::Rng) -> Result<Ask> {
        const MAY: &[u16] = &[400, 413, 415, 422];
        let kinds = [&self.pngs[..], &self.others[..], &[[&jpeg_start(0)[..], &self.jpegs[0].1].concat().into()]];
        let files = kinds[random.usize(0..kinds.len())];
        let mut file = files[random.usize(0..files.len())].to_vec();
        let (path, content_type, body) = match random.u32(0..8) {
            0 | 1 => {
                for _ in 0..random.usize(1..20) {
                    let at = random.usize(0..file.len());
                    file[at] = random.u8(..);
                }
                ("/embed/image", "image/jpeg", file)
            }
            2 => {
                file.truncate(random.usize(0..file.len()));
                ("/embed/image", "image/png", file)
            }
            3 => ("/embed/image", "application/octet-stream", bodies::webp(16_383, random.u8(..))),
            4 => ("/embed/image", "application/octet-stream", bodies::webp(7071, random.u8(..))),
            5 => ("/embed/text", JSON, object("texts", &"[".repeat(random.usize(1..100_000)))),
            6 => ("/embed/text", JSON, object("texts", &bodies::string(random.usize(1..40_000)))),
            _ => ("/similarity", JSON, object(&"k".repeat(random.usize(1..1000)), "[]")),
        };
        Ask::post("hostile", path, content_type, [Bytes::from(body), Bytes::new()], MAY)
    }
}

/// A picture that is made another one by what follows its end.
fn picture(kind: &'static str, files: &[Bytes], number: u64, random: &mut fastrand::Rng) -> Result<Ask> {
    let file = files[random.usize(0..files.len())].clone();
    door(kind, [file, Bytes::from(format!("{number:012}"))], random)
}

/// A picture by one of the doors.
fn door(kind: &'static str, file: [Bytes; 2], random: &mut fastrand::Rng) -> Result<Ask> {
    match random.u32(0..4) {
        0 | 1 => Ask::post(kind, "/embed/image", "application/octet-stream", file, &[]),
        2 => {
            let file = file.concat();
            let (content_type, body) = bodies::pictures(&[file]);
            Ask::post(kind, "/embed/image", &content_type, [body.into(), Bytes::new()], &[])
        }
        _ => {
            let file = STANDARD.encode(file.concat());
            let body = format!("{{\"images\": [\"{file}\"], \"encoding_format\": \"base64\"}}");
            Ask::post(kind, "/embed/image", JSON, [body.into(), Bytes::new()], &[])
        }
    }
}

fn texts(number: u64, random: &mut fastrand::Rng) -> Result<Ask> {
    let count = [1, 1, 1, 4, 16, 64][random.usize(0..6)];
    let words = random.usize(1..60);
    let texts: Vec<_> = (0..count)
        .map(|text| format!("\"{number} {text} {}\"", "a photo of a red cat ".repeat(words / 6 + 1)))
        .collect();
    let body = object("texts", &format!("[{}]", texts.join(",")));
    Ask::post("texts", "/embed/text", JSON, [body.into(), Bytes::new()], &[])
}

impl Ask {
    fn post(
        kind: &'static str,
        path: &'static str,
        content_type: &str,
        [start, end]: [Bytes; 2],
        may: &'static [u16],
    ) -> Result<Self> {
        let mut request = Request::new(Full::new(start.chain(end)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(path);
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::try_from(content_type)?);
        Ok(Self { kind, request, may })
    }
}

/// The clients, and the connections that they have open.
struct Guests {
    address: SocketAddr,
    /// With the time since when.
    idle: RefCell<Vec<(Instant, Connection)>>,
    tally: Arc<Mutex<Tally>>,
}

impl Guests {
    fn new(address: SocketAddr) -> Self {
        Self { address, idle: RefCell::default(), tally: Arc::default() }
    }

    /// One request from its connection to its end.
    async fn serve(&self, ask: Ask, number: u64, may_leave: bool) {
        let mut random = fastrand::Rng::with_seed(!number);
        let leaves = may_leave && random.u64(0..1000) < LEAVES;
        let new = random.u64(0..1000) < NEW_CONNECTION;
        let Ask { kind, request, may } = ask;
        let stood_still = still::times();
        let answer = async {
            let idle = if new { None } else { self.idle() };
            let mut connection = match idle {
                Some(connection) => connection,
                None => Connection::open(self.address).await?,
            };
            let answer = connection.ask(request).await?;
            Result::Ok((connection, answer))
        };
        if leaves {
            let _ = timeout(Duration::from_millis(random.u64(0..LEAVES_WITHIN)), answer).await;
            return self.note((kind, "left".to_owned()));
        }
        let failure = match timeout(PATIENCE, answer).await {
            Ok(Ok((connection, answer))) => {
                let status = answer.status.as_u16();
                let well = status == 200 || status == 429 || may.contains(&status);
                if well {
                    self.note((kind, status.to_string()));
                }
                if !new {
                    self.idle.borrow_mut().push((Instant::now(), connection));
                }
                if status == 429 && !may_leave {
                    sleep(answer.retry_after.unwrap_or(LOOK)).await;
                }
                (!well).then(|| format!("{status}: {}", String::from_utf8_lossy(&answer.start)))
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {PATIENCE:?}")),
        };
        let Some(failure) = failure else { return };
        sleep(2 * still::LOOK).await;
        if still::times() == stood_still {
            self.fail(format!("{kind} {number}: {failure}"));
        } else {
            self.note((kind, "stood still".to_owned()));
        }
    }

    fn idle(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(since, connection)| since.elapsed() < IDLE && !connection.is_closed());
        Some(idle.pop()?.1)
    }

    fn note(&self, end: (&'static str, String)) {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner).ends.entry(end).or_default() += 1;
    }

    fn fail(&self, failure: String) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.failed += 1;
        tally.first_failure.get_or_insert(failure);
    }
}

impl Running {
    /// What there was so far.
    pub(crate) fn describe(&self) -> String {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).describe()
    }

    /// Ends it, and waits for the clients that are there.
    pub(crate) fn stop(self) -> Result<Tally> {
        drop(self.stop);
        self.thread.join().map_err(|_| "the traffic failed")??;
        Ok(self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Tally {
    /// Requests that were answered with 200.
    pub(crate) fn answered(&self) -> u64 {
        self.ends.iter().filter(|((_, end), _)| end == "200").map(|(_, count)| count).sum()
    }

    /// Requests with an end that they may not have.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// `JPEG: 200 4100, 429 3, left 80; ...; 0 failed`.
    pub(crate) fn describe(&self) -> String {
        let mut kinds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((kind, end), count) in &self.ends {
            kinds.entry(kind).or_default().push(format!("{end} {count}"));
        }
        let kinds: Vec<_> = kinds.iter().map(|(kind, ends)| format!("{kind}: {}", ends.join(", "))).collect();
        let failure = self.first_failure.as_ref().map(|failure| format!(" (first: {failure})")).unwrap_or_default();
        format!("{}; {} failed{failure}", kinds.join("; "), self.failed)
    }
}
