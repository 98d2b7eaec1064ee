//! The handshake, which is rustls' own from end to end. What comes out are keys, and who the peer is.

use std::io;

use outrigger_wire::{SpiffeId, names::alpn};
use rustls::{
    ClientConfig, CommonState, Error, ServerConfig,
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus},
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Configured, peer_identity,
    roots::{Bond, Manner},
    stream::{KeySource, TlsStream},
    verify::{Part, root_of},
};

/// What both ends have agreed on.
#[derive(Debug)]
pub(crate) struct Agreed {
    /// Who the peer has proved to be; `None`: nobody that is known by a SPIFFE ID.
    pub(crate) peer: Option<SpiffeId>,
    pub(crate) alpn: Option<Vec<u8>>,
}

/// What a peer has sent right behind its part of the handshake.
#[derive(Default)]
pub(super) struct Early {
    /// Opened already.
    pub(super) data: Vec<u8>,
    /// Not opened yet.
    pub(super) records: Vec<u8>,
    /// It will send nothing more.
    pub(super) ended: bool,
}

/// What is done next.
enum Step {
    Again,
    Read,
    Done,
}

/// Both ends' connections of rustls, which have this in common but no trait.
trait Session {
    type Data;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn common(&self) -> &CommonState;
}

/// What is read at once.
const READ: usize = 4 * 1024;
/// Nobody that we know has more to say in one go.
const LONGEST_FLIGHT: usize = 64 * 1024;

/// Waits for the other side of a handshake. Takes as long as the peer does.
///
/// # Errors
/// When the peer isn't who it must be, or goes.
pub(crate) async fn accept(by: Configured<ServerConfig>, mut socket: TcpStream) -> io::Result<(TlsStream, Agreed)> {
    let mut session = UnbufferedServerConnection::new(by.config.clone()).map_err(invalid)?;
    let early = complete(&mut session, &mut socket).await?;
    let agreed = Agreed::of(&session);
    let bond = bond(&by, &session, &agreed, &socket, Part::Client)?;
    let (secrets, keys) = session.dangerous_into_kernel_connection().map_err(invalid)?;
    Ok((TlsStream::new(socket, bond, secrets, KeySource::Server(keys.into()), early)?, agreed))
}

/// Begins a handshake. Takes as long as the peer does.
///
/// # Errors
/// When the peer isn't who it must be, or goes.
pub(crate) async fn connect(
    by: Configured<ClientConfig>,
    name: ServerName<'static>,
    mut socket: TcpStream,
) -> io::Result<(TlsStream, Agreed)> {
    let mut session = UnbufferedClientConnection::new(by.config.clone(), name).map_err(invalid)?;
    let early = complete(&mut session, &mut socket).await?;
    let agreed = Agreed::of(&session);
    let bond = bond(&by, &session, &agreed, &socket, Part::Server)?;
    let (secrets, keys) = session.dangerous_into_kernel_connection().map_err(invalid)?;
    Ok((TlsStream::new(socket, bond, secrets, KeySource::Client(keys.into()), early)?, agreed))
}

/// Lets the session end with the root that vouches for its peer, which was of that `part` in the handshake. `None`: the peer
/// is nobody.
fn bond<C, S: Session>(
    by: &Configured<C>,
    session: &S,
    agreed: &Agreed,
    socket: &TcpStream,
    part: Part,
) -> io::Result<Option<Bond>> {
    let Some(peer) = &agreed.peer else { return Ok(None) };
    let chain = session.common().peer_certificates().unwrap_or_default();
    let root = root_of(&by.roots, by.algorithms, chain, peer, part);
    let root = root.ok_or_else(|| io::Error::other("nobody vouches for the peer's certificate any more"))?;
    let manner = if agreed.alpn.as_deref() == Some(alpn::TCP) { Manner::AtOnce } else { Manner::InTime };
    Bond::new(&root, socket, manner).map(Some)
}

async fn complete<S: Session>(session: &mut S, socket: &mut TcpStream) -> io::Result<Early> {
    let (mut early, mut outgoing) = (Early::default(), Vec::new());
    loop {
        let step = match step(session, &mut early, &mut outgoing) {
            Ok(Step::Again) => continue,
            Ok(step) => step,
            Err(error) => {
                // A peer that doesn't take the alert now doesn't get it.
                let _ = socket.try_write(&last_words(session, &mut early));
                return Err(invalid(error));
            }
        };
        if !outgoing.is_empty() {
            socket.write_all(&outgoing).await?;
            outgoing.clear();
        }
        if let Step::Done = step {
            return Ok(early);
        }
        if early.records.len() >= LONGEST_FLIGHT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a TLS handshake without end"));
        }
        early.records.reserve(READ);
        if socket.read_buf(&mut early.records).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed within the TLS handshake"));
        }
    }
}

fn step<S: Session>(session: &mut S, early: &mut Early, outgoing: &mut Vec<u8>) -> Result<Step, Error> {
    let UnbufferedStatus { discard, state } = session.process(&mut early.records);
    let mut settled = false;
    let next = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::EncodeTlsData(encoding)) => encode(encoding, outgoing).map(|()| Step::Again),
        Ok(ConnectionState::TransmitTlsData(transmission)) => {
            // It will be, before anything is waited for.
            transmission.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Read),
        Ok(ConnectionState::WriteTraffic(_)) => {
            settled = true;
            Ok(Step::Done)
        }
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            while let Some(record) = traffic.next_record() {
                early.data.extend_from_slice(record?.payload);
            }
            Ok(Step::Again)
        }
        Ok(ConnectionState::PeerClosed) => {
            early.ended = true;
            Ok(Step::Again)
        }
        Ok(_) => Err(Error::General("the peer has ended the session at once".to_owned())),
    };
    early.records.drain(..discard);
    if settled && session.common().is_handshaking() { Ok(Step::Read) } else { next }
}

/// Lets `session` say why it failed. Asks once: with the alert said, it has nothing more to say.
fn last_words<S: Session>(session: &mut S, early: &mut Early) -> Vec<u8> {
    let mut alert = Vec::new();
    if let Ok(ConnectionState::EncodeTlsData(encoding)) = session.process(&mut early.records).state {
        let _ = encode(encoding, &mut alert);
    }
    alert
}

fn encode<D>(mut encoding: EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) -> Result<(), Error> {
    let before = outgoing.len();
    let mut room = READ;
    loop {
        outgoing.resize(before + room, 0);
        match encoding.encode(&mut outgoing[before..]) {
            Ok(written) => {
                outgoing.truncate(before + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(more)) => room = more.required_size,
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
}

fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

// === impl Agreed, Session ===

impl Agreed {
    fn of<S: Session>(session: &S) -> Self {
        let session = session.common();
        Self { peer: peer_identity(session), alpn: session.alpn_protocol().map(<[u8]>::to_vec) }
    }
}

impl Session for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl Session for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}
