//! A slot is accepted only if it is, bit for bit, what encoding makes; with the CRC that came, and
//! with the right one, so that the checks behind it are reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagewire_protocol::{
    Body, SessionHeader, crc32c,
    header::{FRAME_OFFSET_BYTES, HEADER_BYTES},
};

fuzz_target!(|bytes: &[u8]| {
    let mut slot = [0; FRAME_OFFSET_BYTES];
    let count = bytes.len().min(slot.len());
    slot[..count].copy_from_slice(&bytes[..count]);
    check(slot);
    slot[HEADER_BYTES - 4..HEADER_BYTES].fill(0);
    let crc = crc32c(&[&slot]);
    slot[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    check(slot);
    // Any length, and no CRC.
    let _ = SessionHeader::decode(bytes);
    let _ = SessionHeader::claims_frame(bytes);
});

fn check(slot: [u8; FRAME_OFFSET_BYTES]) {
    let mut decoded = slot;
    let Ok(header) = SessionHeader::decode_slot(&mut decoded) else { return };
    let body = Body::of_slot(&decoded, header.body_len);
    assert_eq!(body.as_slice().len(), usize::from(header.body_len));
    assert_eq!(header.frame, SessionHeader::claims_frame(&slot));
    // With zeros behind it, whatever was there.
    let body = Body::new(body.as_slice()).expect("at most 80 bytes");
    assert_eq!(header.encode_slot(&body, true), slot, "{header:?}");
}
