//! A peer made by hand: bare sockets, real handshakes, and whatever bytes a test wants to send.

use super::{CLUSTER, CREDITS, Node, PATIENCE, fill};
use pagewire_protocol::{
    Body, Epoch, Incarnation, InstanceId, Lane, LaneClass, LinkNonce, MessageKind,
    PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, PageSize, Sequence, SessionHeader, crc32c,
    header::FRAME_OFFSET_BYTES,
    hello::{HELLO_BYTES, Hello},
};
use pagewire_transport::link::tcp::CONNECTIONS;
use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
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
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION,
        class,
        refusal: None,
        cluster: CLUSTER,
        instance: InstanceId(from),
        to: InstanceId(to),
        page_size: PageSize::K8,
        incarnation: Incarnation(1),
        nonce: LinkNonce(1),
        view_hash: 0,
        expected: [Sequence(1); Lane::COUNT],
        credits: CREDITS.0,
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

/// Says `hello` on a new connection and reads the answer.
pub(crate) fn greet(nodes: &mut [Node], address: SocketAddr, hello: &Hello) -> (TcpStream, Hello) {
    let mut stream = connect(address);
    stream.write_all(&hello.encode()).unwrap();
    let answer = read(nodes, &mut stream, HELLO_BYTES);
    let answer: [u8; HELLO_BYTES] = answer.try_into().expect("a whole answer");
    (stream, Hello::decode(&answer).unwrap())
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
        let (to, address) = (nodes[0].id().0, nodes[0].address());
        let mut said = self::hello(id, to, LaneClass::Small);
        said.incarnation = Incarnation(incarnation);
        said.nonce = LinkNonce(incarnation);
        let mut streams = Vec::new();
        for class in CONNECTIONS {
            said.class = class;
            let (stream, answer) = greet(nodes, address, &said);
            assert_eq!(answer.refusal, None, "a correct hello");
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
