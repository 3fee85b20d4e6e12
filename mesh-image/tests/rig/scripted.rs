//! A registry that does as it is told: tokens as Docker Hub wants them, transfers that break,
//! answers no honest registry gives.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use mesh_image::Digest;
use mesh_image::build::ArchiveBuilder;

/// The token it gives out.
const TOKEN: &str = "a-token";

/// One answer: content, and how much of it really comes.
#[derive(Clone)]
struct Content {
    media_type: &'static str,
    body: Vec<u8>,
}

#[derive(Default)]
struct Script {
    contents: HashMap<String, Content>,
    /// Times the transfer of a path breaks off in the middle.
    breaks: HashMap<String, usize>,
    wants_token: bool,
    requests: Vec<String>,
}

/// The registry; its threads end with the process.
pub(crate) struct Scripted {
    port: u16,
    script: Arc<Mutex<Script>>,
}

impl Scripted {
    /// Starts it, empty.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = Arc::new(Mutex::new(Script::default()));
        let shared = script.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let script = shared.clone();
                // A connection that breaks is what some tests want.
                std::thread::spawn(move || drop(answer(stream, port, &script)));
            }
        });
        Self { port, script }
    }

    /// `127.0.0.1:<port>`
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on nothing is given without a token.
    pub(crate) fn want_token(&self) {
        self.script.lock().unwrap().wants_token = true;
    }

    /// The next `times` transfers of this blob break off half way.
    pub(crate) fn break_blob(&self, digest: &Digest, times: usize) {
        let path = format!("/v2/app/blobs/{digest}");
        self.script.lock().unwrap().breaks.insert(path, times);
    }

    /// Offers content under a path.
    pub(crate) fn put(&self, path: &str, media_type: &'static str, body: Vec<u8>) {
        let content = Content { media_type, body };
        self.script
            .lock()
            .unwrap()
            .contents
            .insert(path.to_owned(), content);
    }

    /// Offers an image as `app:1`; returns the digests of its manifest and its layers.
    pub(crate) fn offer(&self, image: &ArchiveBuilder) -> (Digest, Vec<Digest>) {
        let manifest = image.manifest_bytes();
        let digest = Digest::of(&manifest);
        let kind = "application/vnd.oci.image.manifest.v1+json";
        self.put("/v2/app/manifests/1", kind, manifest.clone());
        self.put(&format!("/v2/app/manifests/{digest}"), kind, manifest);
        for blob in image.blobs() {
            let path = format!("/v2/app/blobs/{}", Digest::of(&blob));
            self.put(&path, "application/octet-stream", blob);
        }
        (
            digest,
            image
                .layers()
                .iter()
                .map(|layer| Digest::of(layer))
                .collect(),
        )
    }

    /// How often a path with this text in it was asked for.
    pub(crate) fn asked(&self, text: &str) -> usize {
        let script = self.script.lock().unwrap();
        script
            .requests
            .iter()
            .filter(|path| path.contains(text))
            .count()
    }
}

/// Answers one request and closes.
fn answer(stream: TcpStream, port: u16, script: &Mutex<Script>) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut authorized = false;
    for line in lines {
        let line = line?;
        authorized |= line.to_ascii_lowercase() == format!("authorization: bearer {TOKEN}");
        if line.is_empty() {
            break;
        }
    }
    let (content, broken) = {
        let mut script = script.lock().unwrap();
        script.requests.push(path.clone());
        if path.starts_with("/token") {
            let body = format!(r#"{{"token":"{TOKEN}"}}"#).into_bytes();
            (
                Some(Content {
                    media_type: "application/json",
                    body,
                }),
                false,
            )
        } else if script.wants_token && !authorized {
            write!(
                out,
                "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\
                 WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\",\
                 service=\"test\"\r\n\r\n"
            )?;
            return Ok(());
        } else {
            let left = script.breaks.get_mut(&path).filter(|left| **left > 0);
            let broken = left.is_some();
            if let Some(left) = left {
                *left -= 1;
            }
            (script.contents.get(&path).cloned(), broken)
        }
    };
    let Some(content) = content else {
        let status = if path == "/v2/" {
            "200 OK"
        } else {
            "404 Not Found"
        };
        return write!(
            out,
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
    };
    write!(
        out,
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
        content.media_type,
        content.body.len()
    )?;
    let end = if broken {
        content.body.len() / 2
    } else {
        content.body.len()
    };
    out.write_all(&content.body[..end])
}
