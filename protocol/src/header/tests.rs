use super::*;
use proptest::prelude::*;

fn sample(lane: Lane, body: &Body) -> SessionHeader {
    SessionHeader {
        lane,
        kind: MessageKind(102),
        body_len: u8::try_from(body.as_slice().len()).unwrap(),
        frame: lane.class().has_frame(),
        page_crc: lane.class().has_frame().then_some(0xDEAD_BEEF),
        epoch: Epoch(3),
        sequence: Sequence(9),
        ack: Sequence(8),
        credits: 77,
        source: InstanceId(2),
    }
}

#[test]
fn a_header_survives_the_wire_on_every_lane() {
    let body = Body::new(b"hello").unwrap();
    for lane in Lane::ALL {
        let header = sample(lane, &body);
        let bytes = header.encode(&body, true);
        assert_eq!(SessionHeader::decode(&bytes), Ok(header));
        assert_eq!(verify_crc(&bytes, body.as_slice()), Ok(()));
        assert!(verify_crc(&bytes, b"hellp").is_err());
    }
}

#[test]
fn a_page_crc_that_no_flag_speaks_of_is_refused() {
    for lane in Lane::ALL {
        let header = SessionHeader { page_crc: None, ..sample(lane, &Body::EMPTY) };
        let mut slot = header.encode_slot(&Body::EMPTY, false);
        slot[CRC_AT - 1] = 1;
        let crc = crc32c(&[&slot]);
        slot[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        let refused = SessionHeader::decode_slot(&mut slot);
        let what = "session header page CRC";
        assert!(matches!(refused, Err(DecodeError::Field { what: w, .. }) if w == what));
    }
}

/// What [`SessionHeader::decode_message`] makes of a slot must be what the other function makes of it,
/// wherever it makes anything of it.
fn assert_decodes_alike(slot: &Slot, len_bytes: usize) -> bool {
    let Some(message) = SessionHeader::decode_message(slot, len_bytes) else { return false };
    assert_eq!(SessionHeader::decode_slot_without_crc(slot, len_bytes), Ok(message));
    assert!(!message.frame && len_bytes == HEADER_BYTES + usize::from(message.body_len));
    true
}

#[test]
fn a_message_is_decoded_at_once_and_nothing_else_is() {
    let body = Body::new(&[7; 64]).unwrap();
    let header = |lane| SessionHeader { page_crc: None, ..sample(lane, &body) };
    for lane in Lane::ALL {
        let slot = header(lane).encode_slot(&body, false);
        let is_plain = lane.class() == crate::LaneClass::Small;
        assert_eq!(assert_decodes_alike(&slot, 48 + 64), is_plain);
        assert!([0, 48, 111, 113, 128].iter().all(|len| !assert_decodes_alike(&slot, *len)));
    }
    let good = header(Lane::Requests).encode_slot(&body, false);
    // Each byte of the header that has but one value, and each that may not be 0.
    for (at, wrong) in [(0, 1), (1, 3), (1, 5), (4, 1), (5, 1), (7, 1), (38, 1), (39, 1)]
        .into_iter()
        .chain((40..48).map(|at| (at, 1)))
        .chain([(16, 0), (6, 63), (6, 81)])
    {
        let mut slot = good;
        slot[at] = wrong;
        assert!(!assert_decodes_alike(&slot, 48 + 64), "byte {at} is {wrong}");
    }
    for kind in [MessageKind::ACK_ONLY, MessageKind::LINK] {
        let slot = SessionHeader { kind, ..header(Lane::Control) }.encode_slot(&body, false);
        assert!(!assert_decodes_alike(&slot, 48 + 64));
    }
    let longer = SessionHeader { body_len: 81, ..header(Lane::Control) };
    let mut slot = good;
    slot[6] = longer.body_len;
    assert!(!assert_decodes_alike(&slot, 48 + 81));
}

#[test]
fn a_body_of_81_bytes_is_no_body() {
    assert!(Body::new(&[0; 80]).is_some());
    assert!(Body::new(&[0; 81]).is_none());
    assert!(Body::new(&[0; 400]).is_none());
}

#[test]
fn a_body_of_any_length_is_whole_and_zeros_follow() {
    let bytes: [u8; BODY_BYTES_MAX] = std::array::from_fn(|at| u8::try_from(at + 1).unwrap());
    for len in 0..=BODY_BYTES_MAX {
        let body = Body::new(&bytes[..len]).unwrap();
        assert_eq!(body.as_slice(), &bytes[..len]);
        assert_eq!(usize::from(body.count_bytes()), len);
        assert!(body.padded()[len..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_body_that_is_written_in_place_is_the_one_that_is_copied_and_no_longer_than_80() {
    for len in 0..=BODY_BYTES_MAX {
        let mut body = Body::zeros(u8::try_from(len).unwrap());
        assert_eq!(body, Body::new(&[0; BODY_BYTES_MAX][..len]).unwrap());
        body.as_mut_slice().fill(0xA5);
        assert_eq!(body, Body::new(&[0xA5; BODY_BYTES_MAX][..len]).unwrap());
    }
    assert_eq!(Body::zeros(u8::MAX), Body::new(&[0; BODY_BYTES_MAX]).unwrap());
}

proptest! {
    #[test]
    fn a_slot_is_decoded_alike_by_whoever_decodes_it(
        change in any::<[(prop::sample::Index, u8); 3]>(),
        len_bytes in 48usize..=128,
    ) {
        let body = Body::new(&[7; 64]).unwrap();
        let plain = SessionHeader { page_crc: None, ..sample(Lane::Si, &body) };
        let mut slot = plain.encode_slot(&body, false);
        for (at, byte) in change {
            slot[at.index(HEADER_BYTES)] = byte;
        }
        assert_decodes_alike(&slot, len_bytes);
        assert_decodes_alike(&slot, HEADER_BYTES + usize::from(slot[6]));
    }

    #[test]
    fn any_bytes_decode_without_panic_and_only_to_what_encodes_back(bytes in any::<[u8; 48]>()) {
        if let Ok(header) = SessionHeader::decode(&bytes) {
            let body = Body::new(&vec![0; usize::from(header.body_len)]).unwrap();
            let again = header.encode(&body, false);
            // The CRC field, and a page CRC that the flags disown, are not part of the value.
            prop_assert_eq!(&again[..40], &bytes[..40]);
        }
    }

    #[test]
    fn one_flipped_bit_never_passes_the_crc(bit in 0usize..(48 + 5) * 8) {
        let body = Body::new(b"hello").unwrap();
        let mut bytes = sample(Lane::Control, &body).encode(&body, true).to_vec();
        bytes.extend_from_slice(body.as_slice());
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(verify_crc(&bytes[..48], &bytes[48..]).is_err());
    }
}
