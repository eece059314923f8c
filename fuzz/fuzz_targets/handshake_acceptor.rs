//! An acceptor survives any bytes, in any pieces, and takes nothing for proven but what an honest
//! dialler says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagewire_fuzz::{
    Input,
    handshake::{KEY, acceptor, check_hello, give_acceptor, hello, honest},
};
use pagewire_protocol::hello::{AcceptorStep, ProofKey, Refusal};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let flags = input.byte();
    let key = if flags & 1 == 0 { KEY } else { ProofKey::NONE };
    let [first, _, third, _] = honest(key);
    check_hello(&mut input);
    let piece = usize::from(input.byte());
    let mut said = Vec::new();
    // Honest beginnings, so that what is behind them is reached.
    if flags & 2 != 0 {
        said.extend_from_slice(&first);
    }
    if flags & 4 != 0 {
        said.extend_from_slice(&third);
        let at = usize::from(input.byte()) % said.len();
        said[at] ^= input.byte();
    }
    said.extend_from_slice(input.bytes(usize::MAX));

    let mut acceptor = acceptor(key);
    let mut rest = &said[..];
    loop {
        match give_acceptor(&mut acceptor, &mut rest, piece, key) {
            Some(AcceptorStep::Reply(_)) => {}
            Some(AcceptorStep::Proven(proven)) => {
                let honest = [first.as_slice(), &third].concat();
                assert!(said.starts_with(&honest), "taken for proven: {proven:?}");
                assert_eq!(proven, hello(1, 2));
                acceptor.answer(&hello(2, 1), key);
                break;
            }
            Some(AcceptorStep::More) | None => {
                let refused = acceptor.refuse(Refusal::Proof);
                assert!(matches!(refused.as_slice().len(), 48 | 160));
                break;
            }
        }
    }
    assert!(acceptor.room().is_empty(), "it reads on behind the end");
});
