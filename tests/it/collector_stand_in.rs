//! A collector of spans for tests: OTLP over HTTP, on a port of its own.
//!
//! Owns taking requests apart, and answering them as the test wants. Nothing leaves the machine.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message;

/// When spans that must come count as never coming.
const HUNG: Duration = Duration::from_secs(120);

/// What the collector does with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Manner {
    /// Takes it.
    Takes,
    /// Answers this status.
    Refuses(u16),
    /// Reads it and says nothing, until the stand-in is dropped.
    Hangs,
}

/// One request: its head, in lower case, and what is in it.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) head: String,
    /// Of the resource.
    pub(crate) resource: Vec<KeyValue>,
    pub(crate) spans: Vec<Span>,
}

/// A running collector.
pub(crate) struct CollectorStandIn {
    address: String,
    sent: Mutex<Receiver<Sent>>,
    /// Dropped with the stand-in: ends what hangs.
    _alive: Sender<()>,
}

impl CollectorStandIn {
    pub(crate) fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let ((send, sent), (alive, dropped)) = (mpsc::channel(), mpsc::channel::<()>());
        let dropped = Arc::new(Mutex::new(dropped));
        thread::spawn(move || {
            for connection in listener.incoming() {
                let (send, dropped) = (send.clone(), Arc::clone(&dropped));
                thread::spawn(move || serve(connection.expect("a connection"), manner, &send, &dropped));
            }
        });
        Self { address, sent: Mutex::new(sent), _alive: alive }
    }

    /// `telemetry.otlp_endpoint` with its address.
    pub(crate) fn setting(&self) -> String {
        format!("telemetry.otlp_endpoint=http://{}", self.address)
    }

    /// The next request, which is waited for.
    pub(crate) fn next(&self) -> Sent {
        self.sent.lock().expect("one test").recv_timeout(HUNG).expect("spans come")
    }

    /// The next `count` spans, which are waited for; and no more, of what has come by then.
    pub(crate) fn spans(&self, count: usize) -> Vec<Span> {
        let mut spans = Vec::new();
        while spans.len() < count {
            spans.extend(self.next().spans);
        }
        spans.extend(self.sent.lock().expect("one test").try_iter().flat_map(|sent| sent.spans));
        assert_eq!(spans.len(), count, "{:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
        spans
    }
}

/// Until the service closes the connection.
fn serve(connection: TcpStream, manner: Manner, sent: &Sender<Sent>, dropped: &Mutex<Receiver<()>>) {
    let mut reader = BufReader::new(connection.try_clone().expect("a socket"));
    let mut connection = connection;
    while let Some(request) = read(&mut reader) {
        let status = match manner {
            Manner::Takes => 200,
            Manner::Refuses(status) => status,
            Manner::Hangs => {
                let _ = dropped.lock().expect("nobody panics").recv();
                return;
            }
        };
        // Before the answer: who waits for the end of the service finds it.
        let _ = sent.send(request);
        let answer =
            format!("HTTP/1.1 {status} x\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n");
        if connection.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Sent> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    reader.read_exact(&mut body).ok()?;
    let request = ExportTraceServiceRequest::decode(&body[..]).expect("OTLP");
    let [traces] = <[_; 1]>::try_from(request.resource_spans).expect("of one service");
    let spans = traces.scope_spans.into_iter().flat_map(|scope| scope.spans).collect();
    Some(Sent { head, resource: traces.resource.expect("a resource").attributes, spans })
}

/// The attribute of that name, as text.
pub(crate) fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(integer) => Some(integer.to_string()),
        Value::DoubleValue(number) => Some(number.to_string()),
        other => panic!("{other:?}"),
    }
}

/// Bytes as W3C writes ids.
pub(crate) fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
