//! The HTTP check.

use crate::harness::*;
use hyper::Method;
use hyper::header::HeaderValue;
use std::future::pending;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::timeout;

#[tokio::test]
async fn an_http_check_goes_by_the_status() {
    for (status, ok) in
        [(200, true), (204, true), (302, true), (399, true), (400, false), (404, false), (503, false)]
    {
        let address = answering(format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n")).await;
        let seen = first(address, http()).await;
        assert_eq!(found(&seen), (ok, format!("HTTP {status}").as_str()));
    }
    let old = answering("HTTP/1.0 200 OK\r\n\r\nhello").await;
    assert_eq!(found(&first(old, http()).await), (true, "HTTP 200"));
}

#[tokio::test]
async fn an_http_check_asks_for_the_path_and_says_who_it_is() {
    let (sender, mut requests) = mpsc::channel(1);
    let address = server(move |mut stream, _| {
        let requests = sender.clone();
        async move {
            let _ = requests.send(request(&mut stream).await.to_lowercase()).await;
        }
    })
    .await;
    first(address, http()).await;
    let request = timeout(DEADLINE, requests.recv()).await.unwrap().unwrap();
    let mut lines: Vec<&str> = request.trim_end().split("\r\n").collect();
    lines[1..].sort_unstable();
    let host = format!("host: {address}");
    let expected = ["get /health?deep=1 http/1.1", "connection: close", &host, "user-agent: sluice-health"];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn an_http_check_asks_as_the_config_says() {
    let (sender, mut requests) = mpsc::channel(1);
    let address = server(move |mut stream, _| {
        let requests = sender.clone();
        async move {
            let _ = requests.send(request(&mut stream).await).await;
        }
    })
    .await;
    let check = http_with(|http| {
        http.method = Method::HEAD;
        http.host = Some("www.example.org".to_owned());
        for (name, value) in [("user-agent", "probe"), ("x-probe", "1"), ("x-probe", "2")] {
            http.headers.append(name, HeaderValue::from_static(value));
        }
    });
    first(address, check).await;
    let request = timeout(DEADLINE, requests.recv()).await.unwrap().unwrap();
    let mut lines: Vec<&str> = request.trim_end().split("\r\n").collect();
    lines[1..].sort_unstable();
    let expected = [
        "HEAD /health?deep=1 HTTP/1.1",
        "connection: close",
        "host: www.example.org",
        "user-agent: probe",
        "x-probe: 1",
        "x-probe: 2",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn the_config_says_which_status_is_healthy() {
    let check = http_with(|http| http.status = vec![200..=204, 401..=401]);
    for (status, ok) in [(200, true), (204, true), (205, false), (302, false), (401, true)] {
        let address = answering(format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(found(&first(address, check.clone()).await), (ok, format!("HTTP {status}").as_str()));
    }
}

#[tokio::test]
async fn an_http_check_looks_into_the_body() {
    const LIMIT: usize = 65536;
    let check = http_with(|http| http.body = Some("all is well".to_owned()));
    let answer =
        |length: usize, body: String| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
    let whole = |body: String| answer(body.len(), body);
    let at = |offset: usize| whole("x".repeat(offset) + "all is well" + &"y".repeat(LIMIT));
    for (answer, expected) in [
        (whole("status: all is well!".to_owned()), (true, "HTTP 200, the body holds \"all is well\"")),
        (at(LIMIT - 11), (true, "HTTP 200, the body holds \"all is well\"")),
        (at(LIMIT - 10), (false, "HTTP 200, the first 65536 bytes of the body do not hold \"all is well\"")),
        (whole("all is wel".to_owned()), (false, "HTTP 200, the body does not hold \"all is well\"")),
        (whole(String::new()), (false, "HTTP 200, the body does not hold \"all is well\"")),
        (
            answer(99, "all is".to_owned()),
            (false, "HTTP 200, the body broke off before it held \"all is well\""),
        ),
    ] {
        assert_eq!(found(&first(answering(answer).await, check.clone()).await), expected);
    }
    // The status comes first, and the text may come in pieces.
    let failing = answering("HTTP/1.1 500 No\r\nContent-Length: 11\r\n\r\nall is well").await;
    assert_eq!(found(&first(failing, check.clone()).await), (false, "HTTP 500"));
    let pieces = server(|mut stream, _| async move {
        stream.set_nodelay(true).unwrap();
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        for chunk in ["xal", "l is we", "ll"] {
            let chunk = format!("{:x}\r\n{chunk}\r\n", chunk.len());
            stream.write_all(chunk.as_bytes()).await.unwrap();
        }
        // Nothing ends the body: it need not be read to its end.
        pending::<()>().await;
    })
    .await;
    assert!(first(pieces, check).await.up);
}

#[tokio::test]
async fn an_http_check_does_not_wait_for_the_body() {
    let endless = server(|mut stream, _| async move {
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    })
    .await;
    assert_eq!(found(&first(endless, http()).await), (true, "HTTP 200"));
}

#[tokio::test]
async fn servers_that_do_not_answer_fail() {
    let silent = silent().await;
    let seen = first_within(SHORT, silent, http()).await;
    assert_eq!(found(&seen), (false, "no answer within 300 ms"));

    let dripping = server(|mut stream, _| async move {
        for byte in b"HTTP/1.1 200 OK\r\nServer: slow\r\n\r\n" {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    })
    .await;
    let seen = first_within(SHORT, dripping, http()).await;
    assert_eq!(found(&seen), (false, "no answer within 300 ms"));
    assert!((300.0..3000.0).contains(&seen.check.took_ms), "{}", seen.check.took_ms);

    for part in ["", "HTTP/1.1 200 OK\r\nServer: ha"] {
        assert_eq!(found(&first(answering(part).await, http()).await), (false, "closed before the answer"));
    }

    let resetting = server(|mut stream, _| async move {
        request(&mut stream).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    assert_eq!(found(&first(resetting, http()).await), (false, "connection reset"));
}

#[tokio::test]
async fn answers_that_are_not_http_or_too_long_fail() {
    let ssh = answering("SSH-2.0-OpenSSH_9.2p1\r\n").await;
    assert_eq!(found(&first(ssh, http()).await), (false, "no HTTP/1 answer"));

    let long = answering(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100_000))).await;
    assert_eq!(found(&first(long, http()).await), (false, "more than 16384 bytes of headers"));
}
