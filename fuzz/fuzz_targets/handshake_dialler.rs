//! A dialler survives any bytes, in any pieces, and takes nothing for proven but what an honest
//! acceptor says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagewire_fuzz::{
    Input,
    handshake::{KEY, check_hello, dialler, give_dialler, hello, honest},
};
use pagewire_protocol::hello::{DiallerStep, ProofKey};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let flags = input.byte();
    let key = if flags & 1 == 0 { KEY } else { ProofKey::NONE };
    let [_, second, _, fourth] = honest(key);
    check_hello(&mut input);
    let piece = usize::from(input.byte());
    let mut said = Vec::new();
    if flags & 2 != 0 {
        said.extend_from_slice(&second);
    }
    if flags & 4 != 0 {
        said.extend_from_slice(&fourth);
        let at = usize::from(input.byte()) % said.len();
        said[at] ^= input.byte();
    }
    said.extend_from_slice(input.bytes(usize::MAX));

    let mut dialler = dialler(key);
    dialler.opening();
    let mut rest = &said[..];
    let mut spoke = false;
    loop {
        match give_dialler(&mut dialler, &mut rest, piece, key) {
            Some(DiallerStep::Speak) => {
                assert!(!std::mem::replace(&mut spoke, true), "it speaks once");
                assert!(dialler.room().is_empty(), "it reads on before it has spoken");
                dialler.speak(&hello(1, 2), key);
            }
            Some(DiallerStep::Proven(proven)) => {
                let honest = [second.as_slice(), &fourth].concat();
                assert!(said.starts_with(&honest), "taken for proven: {proven:?}");
                assert_eq!(proven, hello(2, 1));
                let _ = dialler.secret(key);
                assert!(dialler.room().is_empty(), "it reads on behind the end");
                break;
            }
            Some(DiallerStep::More) | None => break,
        }
    }
});
