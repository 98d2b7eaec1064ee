use std::{
    sync::{Condvar, Mutex},
    time::UNIX_EPOCH,
};

use super::*;

/// Standard output of the test. Blocks until it is opened.
#[derive(Clone, Default)]
struct Output(Arc<(Mutex<Written>, Condvar)>);

#[derive(Default)]
struct Written {
    open: bool,
    bytes: Vec<u8>,
}

impl Output {
    fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.0.lock().unwrap().bytes.clone()).unwrap()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.1.wait_while(self.0.0.lock().unwrap(), |state| !state.open).unwrap();
        state.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn record() -> Record {
    Record {
        method: Some(Method::GET),
        path: Some(PathAndQuery::from_static("/cart?token=secret")),
        host: Some(HeaderValue::from_bytes(b"a\"b\\c\xff\xc2\x9b31m").unwrap()),
        status: Some(503),
        duration: Duration::from_micros(1500),
        received: 7,
        sent: 9,
        service: Some("shop/front\n{\"status\":200}".into()),
        endpoint: Some("[fd00::1]:80".parse().unwrap()),
        caller: Some(SpiffeId::new("cluster.local", "shop", "client").unwrap()),
        reason: "upstream_connect",
        trace_id: Some(0xab),
        generation: 12,
        ..Record::new(Direction::Outbound, "http/1.1", UNIX_EPOCH)
    }
}

fn written(format: LogFormat, records: Vec<Record>) -> String {
    let output = Output::default();
    output.open();
    let (log, writer) = AccessLog::to(format, Arc::default(), output.clone()).unwrap();
    for record in records {
        log.write(record);
    }
    drop(log);
    writer.unwrap().join().unwrap();
    output.text()
}

#[test]
fn json_lines() {
    let text = written(LogFormat::Json, vec![record(), Record::new(Direction::Inbound, "tcp", UNIX_EPOCH)]);
    assert!(text.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)), "{text}");
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    let first = &lines[0];
    assert_eq!(first["time"], "1970-01-01T00:00:00.000000Z");
    assert_eq!(first["path"], "/cart");
    assert_eq!(first["host"], "a\"b\\c\u{fffd}\u{9b}31m");
    assert_eq!(first["service"], "shop/front\n{\"status\":200}");
    assert_eq!((&first["status"], &first["duration_us"]), (&503.into(), &1500.into()));
    assert_eq!(first["caller"], "spiffe://cluster.local/ns/shop/sa/client");
    assert_eq!(first["trace_id"], "000000000000000000000000000000ab");
    assert!(lines[1].get("path").is_none() && lines[1].get("reason").is_none());
}

#[test]
fn text_lines() {
    let text = written(LogFormat::Text, vec![record()]);
    assert_eq!(
        text,
        "time=1970-01-01T00:00:00.000000Z direction=outbound protocol=http/1.1 method=\"GET\" path=\"/cart\" \
         host=\"a\\\"b\\\\c\\ufffd\\u009b31m\" status=503 duration_us=1500 received=7 sent=9 \
         service=\"shop/front\\u000a{\\\"status\\\":200}\" endpoint=[fd00::1]:80 \
         caller=spiffe://cluster.local/ns/shop/sa/client reason=upstream_connect \
         trace_id=000000000000000000000000000000ab generation=12\n"
    );
}

#[test]
fn a_blocked_reader_costs_records_not_time() {
    let output = Output::default();
    let dropped = Arc::new(Total::default());
    let (log, writer) = AccessLog::to(LogFormat::Text, dropped.clone(), output.clone()).unwrap();
    let sent = 3 * CAPACITY as u64;
    for _ in 0..sent {
        log.write(record());
    }
    assert!(dropped.get() > 0);
    output.open();
    drop(log);
    writer.unwrap().join().unwrap();
    assert_eq!(output.text().lines().count() as u64 + dropped.get(), sent);
}

#[test]
fn formats() {
    assert_eq!("text".parse(), Ok(LogFormat::Text));
    assert!("xml".parse::<LogFormat>().is_err());
    assert!(!AccessLog::off().enabled());
}
