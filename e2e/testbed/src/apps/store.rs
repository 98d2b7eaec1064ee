//! A key-value store over lines of TCP. The server speaks first, as databases and mail servers do.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
};

/// The first line, which the server says by itself.
pub const GREETING: &str = "READY store";

/// Longer lines end the connection.
const MAX_LINE: u64 = 4096;

type Values = Arc<Mutex<HashMap<String, String>>>;

/// Serves until the process ends.
pub async fn run(port: u16) -> Result<Infallible> {
    let values = Values::default();
    super::serve("store", port, move |stream| {
        let values = Arc::clone(&values);
        async move {
            // The client's own doing, either way.
            let _ = connection(stream, values).await;
        }
    })
    .await
}

async fn connection(stream: TcpStream, values: Values) -> io::Result<()> {
    use tokio::io::AsyncReadExt;
    let mut stream = BufStream::new(stream);
    stream.write_all(format!("{GREETING}\n").as_bytes()).await?;
    stream.flush().await?;
    loop {
        let mut line = String::new();
        if (&mut stream).take(MAX_LINE).read_line(&mut line).await? == 0 || !line.ends_with('\n') {
            return Ok(());
        }
        let answer = answer(&mut values.lock().unwrap_or_else(PoisonError::into_inner), line.trim_end());
        stream.write_all(format!("{answer}\n").as_bytes()).await?;
        stream.flush().await?;
    }
}

fn answer(values: &mut HashMap<String, String>, line: &str) -> String {
    let mut words = line.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some("GET"), Some(key), None) => values.get(key).map_or("NONE".to_owned(), |value| format!("VALUE {value}")),
        (Some("SET"), Some(key), Some(value)) => {
            values.insert(key.to_owned(), value.to_owned());
            "STORED".to_owned()
        }
        _ => "ERROR GET KEY or SET KEY VALUE".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let mut values = HashMap::new();
        for (line, want) in [
            ("GET a", "NONE"),
            ("SET a b c", "STORED"),
            ("GET a", "VALUE b c"),
            ("DEL a", "ERROR GET KEY or SET KEY VALUE"),
            ("", "ERROR GET KEY or SET KEY VALUE"),
        ] {
            assert_eq!(answer(&mut values, line), want, "{line}");
        }
    }
}
