use super::*;
use proptest::prelude::*;

fn any_message() -> impl Strategy<Value = SiMessage> {
    let backend = (Backend::MIN.0..=Backend::MAX.0).prop_map(Backend);
    let cache = (0..=CatcacheId::MAX.0).prop_map(CatcacheId);
    prop_oneof![
        (cache, any::<u32>(), any::<u32>())
            .prop_map(|(cache, database, hash)| SiMessage::Catcache { cache, database, hash }),
        any::<(u32, u32)>()
            .prop_map(|(database, catalog)| SiMessage::Catalog { database, catalog }),
        any::<(u32, u32)>()
            .prop_map(|(database, relation)| SiMessage::Relcache { database, relation }),
        (backend, any::<(u32, u32, u32)>()).prop_map(|(backend, (space, database, relation))| {
            SiMessage::Smgr { backend, space, database, relation }
        }),
        any::<u32>().prop_map(|database| SiMessage::Relmap { database }),
        any::<(u32, u32)>()
            .prop_map(|(database, relation)| SiMessage::Snapshot { database, relation }),
    ]
}

/// The bytes that mean something, by id.
fn means_something(id: i8, at: usize) -> bool {
    match (id, at) {
        (SMGR, _) | (_, 0) | (_, 4..8) => true,
        (RELMAP, _) => false,
        (_, at) => (8..12).contains(&at),
    }
}

#[test]
fn the_layout_is_postgresql_15s() {
    let (database, relation) = (0x0403_0201, 0x0807_0605);
    let cases: [(SiMessage, [u8; 16]); 7] = [
        (
            SiMessage::Catcache { cache: CatcacheId(127), database, hash: relation },
            [127, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0],
        ),
        (
            SiMessage::Catalog { database, catalog: relation },
            [255, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0],
        ),
        (
            SiMessage::Relcache { database, relation },
            [254, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0],
        ),
        // backend >> 16 is the high byte, backend & 0xffff the low ones.
        (
            SiMessage::Smgr { backend: Backend(0x0005_0607), space: 1, database, relation },
            [253, 5, 7, 6, 1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        ),
        (
            SiMessage::Smgr { backend: Backend::NONE, space: 1, database, relation },
            [253, 255, 255, 255, 1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        ),
        (SiMessage::Relmap { database }, [252, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]),
        (
            SiMessage::Snapshot { database, relation },
            [251, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0],
        ),
    ];
    for (message, bytes) in cases {
        assert_eq!(message.encode(), bytes, "{message}");
        assert_eq!(SiMessage::decode(&bytes), Ok(message));
        assert_eq!(message.database(), database);
    }
}

#[test]
fn an_id_of_no_kind_is_refused_with_what_was_found() {
    for id in i8::MIN..SNAPSHOT {
        let mut bytes = [0; SI_MESSAGE_BYTES];
        [bytes[0]] = id.to_le_bytes();
        let told = SiMessage::decode(&bytes).unwrap_err().to_string();
        assert!(told.contains(&format!("holds {}, expected", bytes[0])), "{told}");
    }
}

#[test]
fn numbers_that_do_not_fit_are_no_ids() {
    assert_eq!(CatcacheId::new(127), Some(CatcacheId::MAX));
    assert_eq!(CatcacheId::new(128), None);
    assert_eq!(Backend::new(-1), Some(Backend::NONE));
    assert_eq!(Backend::new(Backend::MAX.get() + 1), None);
    assert_eq!(Backend::new(Backend::MIN.get() - 1), None);
}

proptest! {
    #[test]
    fn a_message_survives_its_bytes(message in any_message()) {
        prop_assert_eq!(SiMessage::decode(&message.encode()), Ok(message));
    }

    /// What C leaves in the padding changes nothing, and nothing else is lost.
    #[test]
    fn padding_is_ignored_and_everything_else_is_kept(bytes in any::<[u8; SI_MESSAGE_BYTES]>()) {
        let id = i8::from_le_bytes([bytes[0]]);
        match SiMessage::decode(&bytes) {
            Err(_) => prop_assert!(id < SNAPSHOT),
            Ok(message) => {
                let kept = |at| if means_something(id, at) { bytes[at] } else { 0 };
                let expected: [u8; SI_MESSAGE_BYTES] = std::array::from_fn(kept);
                prop_assert_eq!(message.encode(), expected);
            }
        }
    }
}
