//! Servers that are no S3: each connection is handled by a function, on a thread of its own. They end
//! with the process, since a hanging one never would by itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// Listens on a free port of this machine.
pub(crate) fn listen(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let handle = Arc::new(handle);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let handle = Arc::clone(&handle);
            std::thread::spawn(move || handle(stream));
        }
    });
    address
}

/// Answers every request with `answer`, which gets its head and body, and closes.
pub(crate) fn answering(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> SocketAddr {
    listen(move |mut stream| {
        let request = read_request(&mut stream);
        // A client that has gone is no matter of ours.
        let _ = stream.write_all(answer(&request).as_bytes());
    })
}

/// Sends `first` without having been asked, and then nothing, for ever.
pub(crate) fn silent_after(first: &'static str) -> SocketAddr {
    listen(move |mut stream| {
        let _ = stream.write_all(first.as_bytes());
        // Until the client closes.
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

/// Answers with `start`, and then nothing, for ever.
pub(crate) fn silent_in_answer(start: &'static str) -> SocketAddr {
    listen(move |mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(start.as_bytes());
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

/// A port on which nothing listens.
pub(crate) fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound")
}

/// An answer with a length, which closes the connection.
pub(crate) fn response(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
            if body.len() >= length {
                return text;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return text,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}
