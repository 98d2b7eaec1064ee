//! Bytes by TCP to a server that returns them. Each is known by its position in the stream, so that what comes back is
//! verified by comparing.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};

use crate::{
    failure::Failure,
    pattern::{Pattern, SPAN},
    target::{Scheme, To},
};

/// What counts as a request where only bytes matter.
const BLOCK: u64 = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Echo {
    to: Rc<To>,
    new_connections: bool,
    pattern: Pattern,
    buffer: Vec<u8>,
    pipe: Option<Pipe>,
}

/// One connection, and how far it has come.
#[derive(Debug)]
struct Pipe {
    stream: TcpStream,
    sent: u64,
    received: u64,
}

// === impl Echo ===

impl Echo {
    pub(crate) fn new(to: Rc<To>, pattern: Pattern, new_connections: bool) -> Self {
        Self { to, new_connections, pattern, buffer: vec![0; SPAN], pipe: None }
    }

    pub(crate) async fn exchange(&mut self) -> Result<u64, Failure> {
        // Out of its place while in use: after a failure it is gone.
        let mut pipe = match self.pipe.take().filter(Pipe::goes_on) {
            Some(pipe) => pipe,
            None => Pipe { stream: self.to.to.connect().await?, sent: 0, received: 0 },
        };
        let (before, size) = (pipe.received, self.to.size as u64);
        match self.to.to.scheme {
            Scheme::TcpBulk => self.pump(&mut pipe, u64::MAX, before + BLOCK).await?,
            _ => self.pump(&mut pipe, before + size, before + size).await?,
        }
        let bytes = pipe.received - before;
        if !self.new_connections {
            self.pipe = Some(pipe);
        }
        Ok(bytes)
    }

    /// Says that no more comes, and waits for what is still under way.
    pub(crate) async fn finish(&mut self) -> Result<(), Failure> {
        let Some(mut pipe) = self.pipe.take() else { return Ok(()) };
        pipe.stream.shutdown().await?;
        let sent = pipe.sent;
        self.pump(&mut pipe, sent, sent).await
    }

    /// Sends up to one position and receives up to another, both at once: whoever finished sending before it receives
    /// would wait for ever for a server that does the same.
    async fn pump(&mut self, pipe: &mut Pipe, send_to: u64, receive_to: u64) -> Result<(), Failure> {
        poll_fn(|cx| self.poll_pump(cx, pipe, send_to, receive_to)).await
    }

    fn poll_pump(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        send_to: u64,
        receive_to: u64,
    ) -> Poll<Result<(), Failure>> {
        while pipe.received < receive_to {
            let mut moved = false;
            if pipe.sent < send_to {
                let bytes = self.pattern.at(pipe.sent, send_to - pipe.sent);
                if let Poll::Ready(written) = Pin::new(&mut pipe.stream).poll_write(cx, bytes) {
                    pipe.sent += written? as u64;
                    moved = true;
                }
            }
            let mut buffer = ReadBuf::new(&mut self.buffer);
            if let Poll::Ready(read) = Pin::new(&mut pipe.stream).poll_read(cx, &mut buffer) {
                read?;
                pipe.take(&self.pattern, buffer.filled())?;
                moved = true;
            }
            if !moved {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

// === impl Pipe ===

impl Pipe {
    /// A server may close a connection on which nothing is under way.
    fn goes_on(&self) -> bool {
        let nothing = |read: io::Result<_>| read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.sent != self.received || nothing(self.stream.try_read(&mut [0]))
    }

    fn take(&mut self, pattern: &Pattern, bytes: &[u8]) -> Result<(), Failure> {
        let length = bytes.len() as u64;
        if bytes.is_empty() {
            return Err(Failure::CLOSED);
        }
        if self.received + length > self.sent || pattern.at(self.received, length) != bytes {
            return Err(Failure::Wrong("corrupt"));
        }
        self.received += length;
        Ok(())
    }
}
