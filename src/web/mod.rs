//! Pictures that are elsewhere: fetched from hosts that the operator has listed, and from no others.
//!
//! Owns which addresses are asked (`address`), which network addresses are dialled (`network`, `dial`), the request (`client`), how many
//! there are at a time (`places`), the memory of what comes (`room`), and until when anybody waits. Does not own where in a request an
//! address may stand, nor what a client is told.
//!
//! A name server, a connection and a body are waited for on threads of this module's own, which there are as many of as connections may be
//! open: never on an I/O thread, whose other requests would wait too, and never on one that decodes. Each redirect is a request of its own
//! that goes through everything again.
//!
//! Invariants: without `web.allow_hosts` there is no thread and nothing is asked; what the network says is checked on the address that is
//! dialled; a request waits no longer than its deadline, whatever a name server or a host does; why a picture could not be had is for the
//! log and the metrics, and is one error to the client.

mod address;
mod client;
mod dial;
mod network;
mod places;
mod room;

use std::{
    collections::BTreeSet,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, SemaphorePermit, oneshot},
    time::timeout_at,
};

pub use self::{
    address::{Address, Unfit},
    dial::{Names, SystemNames},
    room::{NoRoom, Room},
};
use self::{
    client::{Client, Got, Stop},
    places::{Place, Places},
};
use crate::{
    budget::Reservation,
    config::{AllowedHosts, Config},
    model::hub::HubError,
    telemetry::{Fetch, LogLimit, Metrics, Reject},
};

/// Clients' requests that wait for pictures, for each connection that may be open, in all and to one host. Each holds a place among all
/// requests: hosts that are slow must not get all of these, and one of them not all that wait.
const REQUESTS_PER_CONNECTION: usize = 4;

/// Why nothing can be fetched at all.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// What the operator has set for all connections.
    #[error("web.allow_hosts is set: {0}")]
    Setting(#[from] HubError),
    /// A thread.
    #[error("a thread that fetches could not be started: {0}")]
    Thread(io::Error),
}

/// Why a picture is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFetched {
    /// It could not be had from there. Why is in the log, within its limit.
    Failed,
    /// There was no connection for it in time.
    Busy,
    /// The request's deadline has passed.
    Late,
    /// There is no room for its bytes.
    Room(NoRoom),
}

/// What fetches.
#[derive(Debug)]
pub struct Web {
    hosts: AllowedHosts,
    timeout: Duration,
    max_redirects: usize,
    /// Of clients' requests.
    turns: Semaphore,
    /// Of clients' requests for one host, each once.
    turns_by_host: Places,
    places: Places,
    /// Each has its place, so no more are in it than there are threads.
    requests: mpsc::Sender<Request>,
    metrics: Arc<Metrics>,
    /// Why pictures were not fetched.
    lines: LogLimit,
    is_picture: fn(&[u8]) -> bool,
}

/// Leave of a client's request to wait for its pictures, given back when dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    _request: SemaphorePermit<'a>,
    _hosts: Vec<Place>,
}

/// A request for one address.
struct Request {
    address: Address,
    room: Arc<Room>,
    answer: oneshot::Sender<Result<Got, Stop>>,
    /// Held until it is over, also where nobody waits any more.
    place: Place,
}

impl Web {
    /// As configured; `None` where no host is allowed. `names` knows hosts, and `is_picture` what a picture begins with. The threads end
    /// with the value that is answered.
    ///
    /// # Errors
    /// [`WebError`].
    pub fn start(
        config: &Config,
        names: Arc<dyn Names>,
        metrics: Arc<Metrics>,
        is_picture: fn(&[u8]) -> bool,
    ) -> Result<Option<Self>, WebError> {
        let web = &config.web;
        if web.allow_hosts.is_empty() {
            return Ok(None);
        }
        let client = Arc::new(Client::new(web, &config.model.hub, names)?);
        let (requests, coming) = mpsc::channel();
        let coming = Arc::new(Mutex::new(coming));
        for _ in 0..web.max_connections {
            let (client, coming) = (Arc::clone(&client), Arc::clone(&coming));
            let body = move || work(&client, &coming);
            thread::Builder::new().name("web".to_owned()).spawn(body).map_err(WebError::Thread)?;
        }
        Ok(Some(Self {
            hosts: web.allow_hosts.clone(),
            timeout: web.timeout,
            max_redirects: web.max_redirects,
            turns: Semaphore::new(web.max_connections * REQUESTS_PER_CONNECTION),
            turns_by_host: Places::new(
                Semaphore::MAX_PERMITS,
                web.max_connections_per_host.saturating_mul(REQUESTS_PER_CONNECTION),
            ),
            places: Places::new(web.max_connections, web.max_connections_per_host),
            requests,
            metrics,
            lines: LogLimit::default(),
            is_picture,
        }))
    }

    /// The address in a text that begins with `http://` or `https://`.
    ///
    /// # Errors
    /// [`Unfit`], which is evident from the text and the configuration: nobody has been asked.
    pub fn address(&self, text: &str) -> Result<Address, Unfit> {
        Address::parse(text, &self.hosts)
    }

    /// The turn of a client's request for these addresses, to be held while its pictures are fetched. Nobody waits for one.
    ///
    /// # Errors
    /// [`NotFetched::Busy`] where too many requests wait for pictures already, in all or from one of the hosts.
    pub fn turn<'a>(&self, addresses: impl Iterator<Item = &'a Address>) -> Result<Turn<'_>, NotFetched> {
        let hosts: BTreeSet<&str> = addresses.map(Address::host).collect();
        let turn = || {
            let hosts = hosts.into_iter().map(|host| self.turns_by_host.take_now(host)).collect::<Option<_>>()?;
            Some(Turn { _request: self.turns.try_acquire().ok()?, _hosts: hosts })
        };
        turn().ok_or_else(|| {
            self.metrics.reject(Reject::Fetches);
            NotFetched::Busy
        })
    }

    /// The picture that is at `address`, with its room. To drop the future is to give it up.
    ///
    /// # Errors
    /// [`NotFetched`].
    pub async fn fetch(
        &self,
        address: &Address,
        room: &Arc<Room>,
        deadline: Instant,
    ) -> Result<(Vec<u8>, Reservation), NotFetched> {
        let fetched =
            self.follow(address, room, deadline).await.and_then(|(bytes, room)| match (self.is_picture)(&bytes) {
                true => Ok((bytes, room)),
                false => Err(Stop::Failed(Fetch::NotAPicture).into()),
            });
        match fetched {
            Ok(picture) => {
                self.metrics.web_picture(Fetch::Fetched);
                Ok(picture)
            }
            Err(Failure::Failed(why)) => {
                self.metrics.web_picture(why);
                // The address without its query: a client's, and within its own line of the log.
                let reason = why.label();
                self.lines.write(|left_out| match why {
                    Fetch::Address => tracing::info!(
                        %address,
                        reason,
                        left_out,
                        "a picture was not fetched: its host has an address that is not public and not in web.allow_networks"
                    ),
                    _ => tracing::info!(%address, reason, left_out, "a picture was not fetched"),
                });
                Err(NotFetched::Failed)
            }
            Err(Failure::Busy) => {
                self.metrics.reject(Reject::Fetches);
                Err(NotFetched::Busy)
            }
            Err(Failure::Late) => Err(NotFetched::Late),
            Err(Failure::Room(no_room)) => Err(NotFetched::Room(no_room)),
        }
    }

    /// The bytes at `address`, or where redirects lead from there.
    async fn follow(
        &self,
        address: &Address,
        room: &Arc<Room>,
        deadline: Instant,
    ) -> Result<(Vec<u8>, Reservation), Failure> {
        let wait = deadline.min(Instant::now() + self.timeout);
        let place =
            self.place(address, wait).await.ok_or(if wait == deadline { Failure::Late } else { Failure::Busy })?;
        let end = deadline.min(Instant::now() + self.timeout);
        let late = || if end == deadline { Failure::Late } else { Failure::Failed(Fetch::Timeout) };
        let (mut address, mut place, mut redirects) = (address.clone(), place, self.max_redirects);
        loop {
            let (answer, answered) = oneshot::channel();
            let request = Request { address: address.clone(), room: Arc::clone(room), answer, place };
            self.requests.send(request).map_err(|_| Failure::Busy)?;
            let answered = timeout_at(end.into(), answered).await.map_err(|_| late())?;
            // Without an answer the thread has panicked, which is logged.
            let location = match answered.unwrap_or(Err(Stop::Failed(Fetch::Broken)))? {
                Got::Bytes(bytes, room) => return Ok((bytes, room)),
                Got::Elsewhere(location) => location,
            };
            let elsewhere = Failure::Failed(Fetch::Redirect);
            let (Some(left), Ok(next)) = (redirects.checked_sub(1), address.follow(&location, &self.hosts)) else {
                return Err(elsewhere);
            };
            place = self.place(&next, end).await.ok_or_else(late)?;
            (address, redirects) = (next, left);
        }
    }

    async fn place(&self, address: &Address, until: Instant) -> Option<Place> {
        timeout_at(until.into(), self.places.take(address.host())).await.ok().flatten()
    }
}

/// Why there is no picture, with what is not told.
#[derive(Debug)]
enum Failure {
    Failed(Fetch),
    Busy,
    Late,
    Room(NoRoom),
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Failed(why) => Self::Failed(why),
            Stop::Room(no_room) => Self::Room(no_room),
            // Whoever would read this is gone.
            Stop::Gone => Self::Late,
        }
    }
}

/// What a thread does, until nobody can ask any more.
fn work(client: &Client, coming: &Mutex<mpsc::Receiver<Request>>) {
    loop {
        let next = coming.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Request { address, room, answer, place }) = next else { return };
        if answer.is_closed() {
            continue;
        }
        // A panic in a library is this picture's alone; its message is logged by the hook.
        let got = catch_unwind(AssertUnwindSafe(|| client.get(&address, &room, || answer.is_closed())));
        // First the place, so that who has the answer may have the next connection.
        drop(place);
        if let Ok(got) = got {
            let _ = answer.send(got);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::{
        budget::ByteBudget,
        config::{self, LogFormat, Overrides},
        telemetry::logged,
    };

    #[derive(Debug)]
    struct Inside;

    impl Names for Inside {
        fn addresses(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            Ok(vec![Ipv4Addr::LOCALHOST.into()])
        }
    }

    #[test]
    fn a_picture_that_is_not_fetched_has_a_line_within_the_limit() {
        let set = vec!["model.path=m".to_owned(), "web.allow_hosts=pictures.test".to_owned()];
        let loaded = config::load(&Overrides { set, ..Default::default() }, []).expect("valid");
        let web = Web::start(&loaded.config, Arc::new(Inside), Arc::new(Metrics::new()), |_| true);
        let web = web.expect("started").expect("a host is allowed");
        let address = web.address("http://pictures.test/a.png").expect("fit");
        let room = Arc::new(Room::new(ByteBudget::new(1 << 20), 0));
        let later = Instant::now() + Duration::from_secs(3600);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let log = || {
            logged(LogFormat::Text, false, || {
                assert_eq!(runtime.block_on(web.fetch(&address, &room, later)).map(|_| ()), Err(NotFetched::Failed));
            })
        };
        let line = log();
        assert!(line.contains("not public") && line.contains("pictures.test") && line.lines().count() == 1, "{line}");
        // In an hour, before which no other window begins.
        while web.lines.admit(later).is_some() {}
        assert_eq!(log(), "");
    }
}
