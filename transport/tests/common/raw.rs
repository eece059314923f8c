//! A peer made by hand: bare sockets, real handshakes, and whatever bytes a test wants to send.

use super::{CLUSTER, CREDITS, Node, PATIENCE, fill};
use pagewire_protocol::{
    Body, Epoch, Incarnation, InstanceId, Lane, LaneClass, LinkControl, LinkNonce, MessageKind,
    PageSize, ProcessId, Sequence, SessionHeader, crc32c,
    header::FRAME_OFFSET_BYTES,
    hello::{
        Acceptor, AcceptorStep, Dialler, DiallerStep, Features, HandshakeError, Hello, INTRO_BYTES,
        Nonce, PROVEN_BYTES, ProofKey,
    },
};
use pagewire_transport::link::tcp::CONNECTIONS;
use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A hello as the endpoints of these tests send it.
pub(crate) fn hello(from: u16, to: u16, class: LaneClass) -> Hello {
    Hello {
        shard: 0,
        shards: 1,
        class,
        refusal: None,
        cluster: CLUSTER,
        instance: InstanceId(from),
        to: InstanceId(to),
        page_size: PageSize::K8,
        storage_mark: 0,
        incarnation: Incarnation(1),
        process: ProcessId(u64::from(from)),
        nonce: LinkNonce(1),
        view_hash: 0,
        view_mark: 0,
        expected: [Sequence(1); Lane::COUNT],
        credits: CREDITS.0,
        features: Features::NONE,
        pause_max_ms: 0,
    }
}

/// Polls `nodes` until `stream` has given `wanted` bytes; fewer when it was closed before.
pub(crate) fn read(nodes: &mut [Node], stream: &mut TcpStream, wanted: usize) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while bytes.len() < wanted {
        assert!(Instant::now() < deadline, "{} of {wanted} bytes came", bytes.len());
        nodes.iter_mut().for_each(Node::poll);
        let room = buffer.len().min(wanted - bytes.len());
        match stream.read(&mut buffer[..room]) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    bytes
}

/// Says `hello` on a new connection, without a cluster key, and reads the answer.
pub(crate) fn greet(nodes: &mut [Node], address: SocketAddr, hello: &Hello) -> (TcpStream, Hello) {
    let (stream, answer) = greet_with(nodes, address, hello, ProofKey::NONE);
    (stream, answer.expect("a proven answer"))
}

/// The same with a key of the test's choice.
pub(crate) fn greet_with(
    nodes: &mut [Node],
    address: SocketAddr,
    hello: &Hello,
    key: ProofKey<'_>,
) -> (TcpStream, Result<Hello, HandshakeError>) {
    let mut talk = Talk::new(connect(address), key);
    let answer = talk.greet(nodes, hello);
    (talk.stream, answer)
}

/// A nonce that no other connection of this process has.
pub(crate) fn nonce() -> Nonce {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut nonce = [0xA5; 32];
    nonce[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    Nonce(nonce)
}

/// The dialler's side of one handshake, step by step.
#[derive(Debug)]
pub(crate) struct Talk<'k> {
    pub(crate) stream: TcpStream,
    pub(crate) dialler: Dialler,
    key: ProofKey<'k>,
    /// What the dialler said, to be played again.
    pub(crate) said: Vec<Vec<u8>>,
}

impl<'k> Talk<'k> {
    pub(crate) fn new(stream: TcpStream, key: ProofKey<'k>) -> Self {
        Self { stream, dialler: Dialler::new(key.is_some(), nonce()), key, said: Vec::new() }
    }

    /// Messages 1 and 2.
    pub(crate) fn open(&mut self, nodes: &mut [Node]) -> Result<(), HandshakeError> {
        let opening = self.dialler.opening();
        self.stream.write_all(&opening).unwrap();
        self.said.push(opening.to_vec());
        let step = self.hear(nodes, INTRO_BYTES)?;
        assert_eq!(step, DiallerStep::Speak);
        Ok(())
    }

    /// Message 3.
    pub(crate) fn speak(&mut self, hello: &Hello) {
        let bytes = self.dialler.speak(hello, self.key);
        self.stream.write_all(&bytes).unwrap();
        self.said.push(bytes.to_vec());
    }

    pub(crate) fn hear(
        &mut self,
        nodes: &mut [Node],
        bytes: usize,
    ) -> Result<DiallerStep, HandshakeError> {
        let heard = read(nodes, &mut self.stream, bytes);
        self.dialler.room()[..heard.len()].copy_from_slice(&heard);
        self.dialler.filled(heard.len(), self.key)
    }

    /// All four messages; the answer.
    pub(crate) fn greet(
        &mut self,
        nodes: &mut [Node],
        hello: &Hello,
    ) -> Result<Hello, HandshakeError> {
        self.open(nodes)?;
        self.speak(hello);
        match self.hear(nodes, PROVEN_BYTES)? {
            DiallerStep::Proven(answer) => Ok(answer),
            step => panic!("{step:?}"),
        }
    }
}

/// Waits until a node dials `listener`.
pub(crate) fn accept(nodes: &mut [Node], listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let mut accepted = None;
    super::pump(nodes, "a connection is dialled", |_| {
        accepted = accepted.take().or_else(|| listener.accept().ok());
        accepted.is_some()
    });
    let stream = accepted.unwrap().0;
    stream.set_nonblocking(true).unwrap();
    stream
}

/// The acceptor's side of one handshake up to the dialler's hello.
pub(crate) fn hear_hello(
    nodes: &mut [Node],
    stream: &mut TcpStream,
    key: ProofKey<'_>,
) -> (Acceptor, Hello) {
    let mut acceptor = Acceptor::new(key.is_some(), nonce());
    for bytes in [INTRO_BYTES, PROVEN_BYTES] {
        let heard = read(nodes, stream, bytes);
        acceptor.room()[..heard.len()].copy_from_slice(&heard);
        match acceptor.filled(heard.len(), key).unwrap() {
            AcceptorStep::Reply(reply) => stream.write_all(&reply).unwrap(),
            AcceptorStep::Proven(hello) => return (acceptor, hello),
            AcceptorStep::More => panic!("the dialler stopped after {} bytes", heard.len()),
        }
    }
    panic!("no hello")
}

/// The connections of a link that a test made by hand.
#[derive(Debug)]
pub(crate) struct RawPeer {
    pub(crate) id: u16,
    /// In the order of [`CONNECTIONS`].
    pub(crate) streams: Vec<TcpStream>,
}

impl RawPeer {
    /// Makes a link to `nodes[0]` as instance `id` in the life `incarnation`.
    pub(crate) fn link(nodes: &mut [Node], id: u16, incarnation: u64) -> Self {
        Self::link_with_key(nodes, id, incarnation, ProofKey::NONE)
    }

    /// The same under a cluster key.
    pub(crate) fn link_with_key(
        nodes: &mut [Node],
        id: u16,
        incarnation: u64,
        key: ProofKey<'_>,
    ) -> Self {
        Self::link_stating(nodes, id, incarnation, key, Features::NONE)
    }

    /// The same, and states these features.
    pub(crate) fn link_stating(
        nodes: &mut [Node],
        id: u16,
        incarnation: u64,
        key: ProofKey<'_>,
        features: Features,
    ) -> Self {
        let (to, address) = (nodes[0].id().0, nodes[0].address());
        let mut said = Hello { features, ..self::hello(id, to, LaneClass::Small) };
        said.incarnation = Incarnation(incarnation);
        said.nonce = LinkNonce(incarnation);
        let mut streams = Vec::new();
        for class in CONNECTIONS {
            said.class = class;
            let (stream, answer) = greet_with(nodes, address, &said, key);
            assert_eq!(answer.unwrap().refusal, None, "a correct hello");
            streams.push(stream);
        }
        super::pump(nodes, "the hand-made link is up", |nodes| nodes[0].is_linked(id));
        Self { id, streams }
    }

    /// A correct header of the first message on `lane`.
    pub(crate) fn header(&self, lane: Lane) -> SessionHeader {
        SessionHeader {
            lane,
            kind: MessageKind(200),
            body_len: 5,
            frame: lane.class().has_frame(),
            page_crc: None,
            epoch: Epoch(1),
            sequence: Sequence(1),
            ack: Sequence(0),
            credits: CREDITS.of(lane),
            source: InstanceId(self.id),
        }
    }

    /// The connection on which messages of `class` travel: the first, unless it has its own.
    pub(crate) fn stream(&mut self, class: LaneClass) -> &mut TcpStream {
        let at = CONNECTIONS.iter().position(|connection| *connection == class);
        &mut self.streams[at.unwrap_or(0)]
    }

    /// Says something about the link.
    pub(crate) fn say(&mut self, said: &LinkControl) {
        let body = said.encode();
        let header = SessionHeader {
            kind: MessageKind::LINK,
            body_len: u8::try_from(body.as_slice().len()).unwrap(),
            epoch: Epoch(0),
            sequence: Sequence(0),
            credits: 0,
            ..self.header(Lane::Control)
        };
        self.send(LaneClass::Small, &header.encode_slot(&body, true));
    }

    /// The next thing that the node says about the link; acknowledgements are passed over.
    pub(crate) fn hear(&mut self, nodes: &mut [Node]) -> LinkControl {
        loop {
            let slot = read(nodes, self.stream(LaneClass::Small), FRAME_OFFSET_BYTES);
            let mut slot: [u8; FRAME_OFFSET_BYTES] = slot.try_into().expect("a whole slot");
            let header = SessionHeader::decode_slot(&mut slot).expect("a header");
            if header.kind == MessageKind::LINK {
                let body = Body::of_slot(&slot, header.body_len);
                return LinkControl::decode(body.as_slice()).expect("about the link");
            }
        }
    }

    pub(crate) fn send(&mut self, class: LaneClass, bytes: &[u8]) {
        // What the kernel does not take at once, it will not need.
        let _ = self.stream(class).write(bytes);
    }
}

pub(crate) fn body() -> Body {
    Body::new(b"hello").unwrap()
}

/// Header and padded body on the wire; the page is not in it.
pub(crate) fn encode(header: &SessionHeader) -> Vec<u8> {
    let body = Body::new(&body().as_slice()[..usize::from(header.body_len)]).unwrap();
    let mut bytes = header.encode(&body, true).to_vec();
    bytes.extend_from_slice(body.padded());
    bytes
}

/// A message and, where its lane carries one, page `number` with its CRC.
pub(crate) fn encode_whole(header: &SessionHeader, number: u64) -> Vec<u8> {
    if !header.frame {
        return encode(header);
    }
    let mut page = vec![0; PageSize::K8.bytes()];
    fill(&mut page, number);
    let mut header = *header;
    header.page_crc = Some(crc32c(&[&page]));
    let mut bytes = encode(&header);
    bytes.extend_from_slice(&page);
    bytes
}

/// Changes bytes of an encoded header and makes its CRC right again.
pub(crate) fn patched(mut bytes: Vec<u8>, at: usize, with: &[u8]) -> Vec<u8> {
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes[44..48].fill(0);
    let crc = crc32c(&[&bytes[..FRAME_OFFSET_BYTES]]);
    bytes[44..48].copy_from_slice(&crc.to_le_bytes());
    bytes
}
