//! Two parties that have the same key, and what they say when both are honest. Keys and nonces are
//! fixed, so that what one recorded of a run is right in the next.

use crate::Input;
use pagewire_protocol::{
    ClusterId, Incarnation, InstanceId, Lane, LaneClass, LinkNonce, PageSize, ProcessId, Sequence,
    hello::{
        Acceptor, AcceptorStep, Dialler, DiallerStep, Features, HELLO_BYTES, Hello, Nonce, ProofKey,
    },
};

/// The cluster key of both.
pub const KEY: ProofKey<'static> = ProofKey::new(b"a cluster key of thirty-two bytes");

/// What honest parties say: messages 1 to 4.
pub type Transcript = [Vec<u8>; 4];

/// A dialler that has said nothing yet.
pub fn dialler(key: ProofKey<'_>) -> Dialler {
    Dialler::new(key.is_some(), Nonce([1; 32]))
}

/// An acceptor that has read nothing yet.
pub fn acceptor(key: ProofKey<'_>) -> Acceptor {
    Acceptor::new(key.is_some(), Nonce([2; 32]))
}

/// A hello of instance `from` to instance `to`.
pub fn hello(from: u16, to: u16) -> Hello {
    Hello {
        shard: 0,
        shards: 1,
        class: LaneClass::Small,
        refusal: None,
        cluster: ClusterId(7),
        instance: InstanceId(from),
        to: InstanceId(to),
        page_size: PageSize::K8,
        storage_mark: 0,
        incarnation: Incarnation(3),
        process: ProcessId(u64::from(from)),
        nonce: LinkNonce(9),
        view_hash: 11,
        view_mark: 1,
        expected: [Sequence(1); Lane::COUNT],
        credits: [8; Lane::COUNT],
        features: Features::NONE,
        pause_max_ms: 0,
    }
}

/// Hands `bytes` to `dialler` in pieces of at most `piece` bytes, until it asks for no more.
pub fn give_dialler(
    dialler: &mut Dialler,
    bytes: &mut &[u8],
    piece: usize,
    key: ProofKey<'_>,
) -> Option<DiallerStep> {
    while !bytes.is_empty() {
        let room = dialler.room();
        let count = room.len().min(bytes.len()).min(piece.max(1));
        room[..count].copy_from_slice(&bytes[..count]);
        *bytes = &bytes[count..];
        match dialler.filled(count, key) {
            Ok(DiallerStep::More) => {}
            Ok(step) => return Some(step),
            Err(_) => {
                assert!(dialler.room().is_empty(), "it has ended, and asks for more");
                return None;
            }
        }
    }
    None
}

/// The same for an acceptor.
pub fn give_acceptor(
    acceptor: &mut Acceptor,
    bytes: &mut &[u8],
    piece: usize,
    key: ProofKey<'_>,
) -> Option<AcceptorStep> {
    while !bytes.is_empty() {
        let room = acceptor.room();
        let count = room.len().min(bytes.len()).min(piece.max(1));
        room[..count].copy_from_slice(&bytes[..count]);
        *bytes = &bytes[count..];
        match acceptor.filled(count, key) {
            Ok(AcceptorStep::More) => {}
            Ok(step) => return Some(step),
            Err(_) => {
                assert!(acceptor.room().is_empty(), "it has ended, and asks for more");
                return None;
            }
        }
    }
    None
}

/// The four messages of a handshake between honest parties.
///
/// # Panics
/// When they do not come to terms: a defect.
pub fn honest(key: ProofKey<'_>) -> Transcript {
    let (mut dialler, mut acceptor) = (dialler(key), acceptor(key));
    let first = dialler.opening();
    let Some(AcceptorStep::Reply(second)) = give_acceptor(&mut acceptor, &mut &first[..], 48, key)
    else {
        panic!("no reply");
    };
    let step = give_dialler(&mut dialler, &mut &second[..], 48, key);
    assert_eq!(step, Some(DiallerStep::Speak));
    let third = dialler.speak(&hello(1, 2), key);
    let step = give_acceptor(&mut acceptor, &mut &third[..], 160, key);
    assert!(matches!(step, Some(AcceptorStep::Proven(_))), "{step:?}");
    let (fourth, _) = acceptor.answer(&hello(2, 1), key);
    let step = give_dialler(&mut dialler, &mut &fourth[..], 160, key);
    assert!(matches!(step, Some(DiallerStep::Proven(_))), "{step:?}");
    [first.to_vec(), second.to_vec(), third.to_vec(), fourth.to_vec()]
}

/// A hello is accepted only if it is what encoding makes.
pub fn check_hello(input: &mut Input<'_>) {
    let mut bytes = hello(1, 2).encode();
    for _ in 0..input.byte() % 8 {
        let at = usize::from(input.byte()) % HELLO_BYTES;
        bytes[at] = input.byte();
    }
    if let Ok(hello) = Hello::decode(&bytes) {
        assert_eq!(hello.encode(), bytes);
    }
}
