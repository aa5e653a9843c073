#![allow(clippy::unwrap_used)]

use super::*;

/// What a server answers to `request`, byte for byte, when the client then closes its half.
async fn ask(request: &[u8]) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(accept(listener, "east/shop/api".into()));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(request).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    server.abort();
    answer
}

async fn ask_text(request: &str) -> String {
    String::from_utf8(ask(request.as_bytes()).await).unwrap()
}

#[tokio::test]
async fn the_root_names_the_pod_and_the_caller() {
    let answer = ask_text("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.ends_with("east/shop/api\nyou are 127.0.0.1\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn bytes_are_those_of_content_with_their_digest() {
    use base64::{Engine, engine::general_purpose::STANDARD};

    let answer = ask(b"GET /bytes/300000 HTTP/1.1\r\n\r\n").await;
    let end = find(&answer, b"\r\n\r\n").unwrap() + 4;
    let (head, body) = answer.split_at(end);
    let head = String::from_utf8_lossy(head);
    let mut expected = vec![0; 300_000];
    content::fill(0, &mut expected);
    assert_eq!(body, expected);
    let digest = STANDARD.encode(content::checksum(300_000));
    assert!(
        head.contains(&format!("Repr-Digest: sha-256=:{digest}:")),
        "{head}"
    );
}

#[tokio::test]
async fn a_body_is_echoed_in_one_or_many_pieces() {
    let answer = ask_text("POST /echo HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello").await;
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    let body = "x".repeat(100_000);
    let request = format!("POST /echo HTTP/1.1\r\nContent-Length: 100000\r\n\r\n{body}");
    assert!(ask_text(&request).await.ends_with(&body));
}

#[tokio::test]
async fn anything_else_comes_back_as_it_went() {
    assert_eq!(
        ask(b"\x00\x01GET / HTTP/1.1\r\n\r\n").await,
        b"\x00\x01GET / HTTP/1.1\r\n\r\n"
    );
    assert_eq!(ask(b"hello").await, b"hello");
    assert_eq!(ask(b"GETX").await, b"GETX");
}

#[tokio::test]
async fn bad_requests_are_refused_in_bounds() {
    for (request, status) in [
        ("GET /nothing HTTP/1.1\r\n\r\n", "404"),
        ("GET /bytes/-1 HTTP/1.1\r\n\r\n", "404"),
        ("GET /bytes/99999999999999999999 HTTP/1.1\r\n\r\n", "404"),
        ("POST /echo HTTP/1.1\r\n\r\n", "411"),
        (
            "POST /echo HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
            "413",
        ),
    ] {
        let answer = ask_text(request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
    }
    let endless = format!("GET /{}", "a".repeat(2 * MAX_HEAD));
    assert!(ask_text(&endless).await.starts_with("HTTP/1.1 431 "));
}
