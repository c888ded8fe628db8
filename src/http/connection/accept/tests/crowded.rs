//! Connections that hold what others need: idle, slow, deaf, refused.

use super::*;

/// Older than a connection that may have a request on the way.
async fn no_longer_fresh() {
    let fresh = Instant::now() + Duration::from_millis(110);
    tokio::time::sleep_until(fresh).await;
}

#[tokio::test]
async fn at_the_cap_the_connection_that_has_been_idle_longest_is_closed_for_a_new_one() {
    let server = Server::start(AcceptOptions { max_connections: 2, ..options() }).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    ask(&mut first, "/hello").await;
    ask(&mut second, "/hello").await;
    // The first is the one that was used last now.
    ask(&mut first, "/hello").await;
    no_longer_fresh().await;
    let mut third = server.connect().await;
    assert_eq!(ask(&mut third, "/hello").await.1, "hello");
    assert_eq!(until_closed(&mut second).await, "");
    assert_eq!(ask(&mut first, "/hello").await.1, "hello");
    assert_eq!(server.ended("idle"), 1);
}

#[tokio::test]
async fn at_the_cap_half_a_head_goes_when_nobody_is_idle_and_work_never_does() {
    let mut server = Server::start(AcceptOptions { max_connections: 2, ..options() }).await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(server.event().await, "begun");
    let mut half = server.connect().await;
    half.write_all(b"GET /hello HT").await.unwrap();
    while server.connections.get() < 2 {
        tokio::task::yield_now().await;
    }
    no_longer_fresh().await;
    let mut third = server.connect().await;
    assert_eq!(ask(&mut third, "/hello").await.1, "hello");
    assert_eq!(until_closed(&mut half).await, "");
    server.go_on.notify_one();
    assert_eq!(answer(&mut busy).await.1, "slow");
    assert_eq!(server.ended("slow_head"), 1);
}

#[tokio::test]
async fn with_all_at_work_new_connections_are_in_the_reserve_and_close_after_their_answer() {
    let mut server = Server::start(AcceptOptions { max_connections: 1, ..options() }).await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(server.event().await, "begun");
    let mut probe = server.connect().await;
    let (head, body) = ask(&mut probe, "/hello").await;
    assert_eq!(body, "hello");
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(until_closed(&mut probe).await, "");
    server.go_on.notify_one();
    assert_eq!(answer(&mut busy).await.1, "slow");
}

#[tokio::test]
async fn who_waits_in_the_reserve_does_not_shield_a_slow_upload_that_holds_a_place() {
    let server = Server::start(AcceptOptions { max_connections: 1, ..options() }).await;
    let mut slow = server.connect().await;
    slow.write_all(b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n1").await.unwrap();
    while server.connections.get() < 1 {
        tokio::task::yield_now().await;
    }
    let mut idle = server.connect().await;
    while server.connections.get() < 2 {
        tokio::task::yield_now().await;
    }
    no_longer_fresh().await;
    let ended = async {
        while !server.peers.end_for_place() {
            tokio::task::yield_now().await;
        }
    };
    timeout(HANG, ended).await.expect("the upload is found slow");
    assert!(answer(&mut slow).await.0.starts_with("http/1.1 408"));
    drop(slow);
    assert_eq!(ask(&mut idle, "/hello").await.1, "hello");
    assert_eq!((server.ended("slow_upload"), server.ended("idle")), (1, 0));
}

#[tokio::test]
async fn a_refused_body_of_unknown_length_leaves_its_connection_open_if_it_is_little() {
    let server = Server::start(options()).await;
    let mut client = server.connect().await;
    for _ in 0..20 {
        let head = "POST /refuse HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
        client.write_all(format!("{head}5\r\nhello\r\n0\r\n\r\n").as_bytes()).await.unwrap();
        let (head, _) = answer(&mut client).await;
        assert!(head.starts_with("http/1.1 429") && !head.contains("connection: close"), "{head}");
    }
    assert_eq!(ask(&mut client, "/hello").await.1, "hello");
}

#[tokio::test]
async fn a_client_that_ends_its_side_gets_what_nobody_has_to_be_waited_for() {
    let mut server = Server::start(options()).await;
    for request in
        ["GET /hello HTTP/1.1\r\nhost: x\r\n\r\n", "POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"]
    {
        for _ in 0..100 {
            let mut client = server.connect().await;
            // On this one thread the server does not look before both are there.
            assert_eq!(client.try_write(request.as_bytes()).unwrap(), request.len());
            client.shutdown().await.unwrap();
            let got = until_closed(&mut client).await;
            assert!(got.starts_with("HTTP/1.1 200"), "{got:?}");
        }
    }
    let mut client = server.connect().await;
    client.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(server.event().await, "begun");
    assert_eq!(server.event().await, "dropped", "who waits and ends its side has gone");
}

#[tokio::test]
async fn a_refused_picture_leaves_its_connection_open_for_the_next_request() {
    let server = Server::start(options()).await;
    let mut client = server.connect().await;
    for _ in 0..20 {
        let head = "POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![0; 200_000]).await.expect("no reset while sending");
        let (head, _) = answer(&mut client).await;
        assert!(head.starts_with("http/1.1 429") && !head.contains("connection: close"), "{head}");
    }
    assert_eq!(ask(&mut client, "/hello").await.1, "hello");
    assert_eq!(server.connections.get(), 1);
}

#[tokio::test]
async fn a_client_that_waits_for_leave_to_send_gets_none_behind_a_refusal() {
    let server = Server::start(options()).await;
    let mut client = server.connect().await;
    let head = "POST /refuse HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2000\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let (head, _) = answer(&mut client).await;
    assert!(head.starts_with("http/1.1 429") && head.contains("connection: close"), "{head}");
    client.shutdown().await.unwrap();
    assert_eq!(until_closed(&mut client).await, "");
}

#[tokio::test]
async fn what_an_answer_holds_is_held_until_its_client_has_read_it() {
    let mut server = Server::start(options()).await;
    let mut deaf = server.connect().await;
    deaf.write_all(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(server.event().await, "held");
    for _ in 0..100 {
        ask(&mut server.connect().await, "/hello").await;
    }
    assert!(server.events.try_recv().is_err(), "64 MiB are on their way");
    let mut got = vec![0; 1 << 20];
    while timeout(HANG, deaf.read(&mut got)).await.expect("bytes").unwrap() > 0 {
        if server.events.try_recv() == Ok("dropped") {
            return;
        }
    }
    panic!("read to the end, and still held");
}

#[tokio::test]
async fn where_bytes_are_short_the_slowest_upload_is_ended_and_a_fast_one_is_not() {
    let mut server = Server::start(options()).await;
    let mut trickle = server.connect().await;
    trickle.write_all(b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n1").await.unwrap();
    let mut fast = server.connect().await;
    fast.write_all(b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n").await.unwrap();
    let (_, mut sending) = fast.split();
    let feed = async {
        // A tenth of a megabyte ten times a second.
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        for _ in 0..9 {
            ticks.tick().await;
            sending.write_all(&[0; 100_000]).await.unwrap();
        }
        std::future::pending::<()>().await;
    };
    let watch = async {
        // Nobody is ended before it has been watched for a second.
        while !server.peers.end_slowest_upload() {
            tokio::task::yield_now().await;
        }
        let (head, _) = answer(&mut trickle).await;
        assert!(head.starts_with("http/1.1 408"), "{head}");
        assert!(!server.peers.end_slowest_upload(), "nobody else is slow");
    };
    tokio::select! {
        () = feed => {}
        watched = timeout(HANG, watch) => watched.expect("the slow one is ended"),
    }
    sending.write_all(&[0; 100_000]).await.unwrap();
    assert_eq!(answer(&mut fast).await.1, "1000000");
    assert_eq!(server.ended("slow_upload"), 1);
    server.drain();
}

#[tokio::test]
async fn where_places_are_short_who_does_not_read_is_ended() {
    let server = Server::start(options()).await;
    let mut deaf = server.connect().await;
    deaf.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let ended = async {
        while !server.peers.end_slowest_reader() {
            tokio::task::yield_now().await;
        }
    };
    timeout(HANG, ended).await.expect("it is found slow");
    let mut got = Vec::new();
    let _ = timeout(HANG, deaf.read_to_end(&mut got)).await.expect("closed");
    assert!(got.len() < 64 << 20, "cut before the end of the answer");
    assert_eq!(server.ended("slow_reader"), 1);
}
