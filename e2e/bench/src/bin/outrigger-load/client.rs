//! One of those who make requests one after the other, by whatever protocol.

use std::rc::Rc;

use anyhow::{Result, ensure};

use crate::{
    echo::Echo,
    failure::Failure,
    grpc,
    http1::Http1,
    http2::{Http2, Lane, Sender},
    pattern::Pattern,
    target::{Scheme, To},
};

#[derive(Debug)]
pub(crate) enum Client {
    Http1(Http1),
    Http2(Http2),
    Unary(grpc::Unary),
    Stream(grpc::Stream),
    Echo(Echo),
}

/// Who asks for what, by how many at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crowd {
    pub(crate) connections: usize,
    /// Requests under way on one connection.
    pub(crate) streams: usize,
    pub(crate) new_connections: bool,
}

// === impl Crowd ===

impl Crowd {
    pub(crate) fn check(self, to: &To) -> Result<()> {
        let (Self { connections, streams, new_connections }, scheme) = (self, to.to.scheme);
        ensure!(connections > 0 && streams > 0 && to.size > 0, "connections, streams and size are at least 1");
        ensure!(streams == 1 || scheme.is_http2(), "{}: --streams is for HTTP/2 and gRPC", to.to);
        let lasting = matches!(scheme, Scheme::GrpcStream | Scheme::TcpBulk);
        ensure!(!new_connections || !lasting, "{}: a stream has no --new-connections", to.to);
        Ok(())
    }

    pub(crate) fn clients(self, to: &To) -> Result<Vec<Client>> {
        let (pattern, shared) = (Pattern::new(), Rc::new(to.clone()));
        let message = grpc::message(&pattern, to.size);
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            let lane = Lane::new(to);
            for _ in 0..self.streams {
                let sender = || Sender::new(lane.clone(), self.new_connections);
                clients.push(match to.to.scheme {
                    Scheme::Http => Client::Http1(Http1::new(to, self.new_connections)?),
                    Scheme::Http2 => Client::Http2(Http2::new(to, sender())?),
                    Scheme::Grpc => Client::Unary(grpc::Unary::new(to, sender(), message.clone())?),
                    Scheme::GrpcStream => Client::Stream(grpc::Stream::new(to, sender(), message.clone())?),
                    Scheme::Tcp | Scheme::TcpBulk => {
                        Client::Echo(Echo::new(shared.clone(), pattern.clone(), self.new_connections))
                    }
                });
            }
        }
        Ok(clients)
    }
}

// === impl Client ===

impl Client {
    /// One request, on a connection made for it where there is none. Returns the bytes of the answer.
    pub(crate) async fn exchange(&mut self) -> Result<u64, Failure> {
        match self {
            Self::Http1(client) => client.exchange().await,
            Self::Http2(client) => client.exchange().await,
            Self::Unary(client) => client.exchange().await,
            Self::Stream(client) => client.exchange().await,
            Self::Echo(client) => client.exchange().await,
        }
    }

    /// What there is to do between two requests.
    pub(crate) async fn rest(&mut self) {
        if let Self::Http1(client) = self {
            client.rest().await;
        }
    }

    /// Ends what lasts longer than a request.
    pub(crate) async fn finish(&mut self) -> Result<(), Failure> {
        match self {
            Self::Stream(client) => client.finish().await,
            Self::Echo(client) => client.finish().await,
            Self::Http1(_) | Self::Http2(_) | Self::Unary(_) => Ok(()),
        }
    }
}
