//! Looks at what is offered on loopback inside a pod: health, metrics, dumps. One plain HTTP/1.0 GET per look.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::net::Namespace;

/// A look that takes longer than this has failed: admin answers at once or not at all.
const PATIENCE: Duration = Duration::from_millis(500);

/// Between two looks at something that isn't yet so.
pub const PAUSE: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub status: u16,
    /// By lower-case names.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// One line of the Prometheus text format.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// GET from the pod's loopback.
pub fn get(namespace: &Namespace, port: u16, path: &str) -> Result<Page> {
    get_from(namespace, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path)
}

/// GET as the pod's app would send it.
pub fn get_from(namespace: &Namespace, to: SocketAddr, path: &str) -> Result<Page> {
    ask(namespace.connect(to, PATIENCE)?, path)
}

/// GET from the machine's own namespace, where the controller is.
pub fn get_here(to: SocketAddr, path: &str) -> Result<Page> {
    ask(TcpStream::connect_timeout(&to, PATIENCE)?, path)
}

/// Waits until `so` holds; the error names what it was that never came.
pub fn wait_until(what: &str, limit: Duration, mut so: impl FnMut() -> bool) -> Result<Duration> {
    let start = Instant::now();
    while !so() {
        if start.elapsed() > limit {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(PAUSE);
    }
    Ok(start.elapsed())
}

/// All samples of a scrape; comments and lines that aren't metrics are passed over.
pub fn metrics(text: &str) -> Vec<Metric> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(metric).collect()
}

fn ask(mut stream: TcpStream, path: &str) -> Result<Page> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        // Some servers reset instead of closing; what has come counts.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !answer.is_empty() => {}
        Err(error) => return Err(error).with_context(|| format!("GET {path}")),
    }
    page(&String::from_utf8_lossy(&answer)).with_context(|| format!("GET {path}: not an HTTP answer"))
}

fn page(answer: &str) -> Option<Page> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Some(Page { status, headers, body: body.to_owned() })
}

fn metric(line: &str) -> Option<Metric> {
    let (series, value) = line.trim().rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, rest)) = series.split_once('{') else {
        return Some(Metric { name: series.to_owned(), labels: BTreeMap::new(), value });
    };
    let mut labels = BTreeMap::new();
    let mut rest = rest.strip_suffix('}')?;
    while let Some((label, after)) = rest.split_once("=\"") {
        let (text, after) = quoted(after)?;
        labels.insert(label.trim_start_matches(',').trim().to_owned(), text);
        rest = after;
    }
    Some(Metric { name: name.to_owned(), labels, value })
}

/// Text up to the closing quote, unescaped, and what follows.
fn quoted(rest: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((text, &rest[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => text.push('\n'),
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_a_scrape() {
        let text = "# TYPE a counter\na_total{x=\"1\",y=\"say \\\"hi\\\", {you}\"} 3\nb 2.5\nodd line\n# EOF\n";
        let all = metrics(text);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].labels["y"], "say \"hi\", {you}");
        assert_eq!((all[0].name.as_str(), all[0].value), ("a_total", 3.0));
        assert_eq!((all[1].name.as_str(), all[1].value), ("b", 2.5));
    }

    #[test]
    fn pages() {
        let headers = BTreeMap::from([("x-a".to_owned(), "y: z".to_owned())]);
        let want = Page { status: 503, headers, body: "no".to_owned() };
        assert_eq!(page("HTTP/1.0 503 Service Unavailable\r\nX-A: y: z\r\n\r\nno"), Some(want));
        assert_eq!(page("SSH-2.0\r\n"), None);
    }
}
