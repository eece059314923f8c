//! The C header and this crate say the same of the layout.

use crate::layout;
use std::{fs, path::Path, process::Command};

/// Names and what they are in C, and what they are here.
fn facts() -> Vec<(&'static str, String, u64)> {
    let header = |field: &str| format!("offsetof(struct pagewire_si_header, {field})");
    let entry = |field: &str| format!("offsetof(struct pagewire_si_entry, {field})");
    let number = |value: usize| value as u64;
    vec![
        ("magic", "PAGEWIRE_SI_MAGIC".to_owned(), layout::MAGIC),
        ("version", "PAGEWIRE_SI_VERSION".to_owned(), layout::RING_VERSION.into()),
        ("fewest", "PAGEWIRE_SI_ENTRIES_MIN".to_owned(), layout::ENTRIES_MIN.into()),
        ("most", "PAGEWIRE_SI_ENTRIES_MAX".to_owned(), layout::ENTRIES_MAX.into()),
        ("gone", "PAGEWIRE_SI_STATE_GONE".to_owned(), layout::STATE_GONE.into()),
        ("end", "PAGEWIRE_SI_POSITION_END".to_owned(), layout::POSITION_END),
        ("header", "sizeof(struct pagewire_si_header)".to_owned(), number(layout::HEADER_BYTES)),
        ("slot", "sizeof(struct pagewire_si_slot)".to_owned(), number(layout::ENTRY_BYTES)),
        ("entry", "sizeof(struct pagewire_si_entry)".to_owned(), number(layout::ENTRY_BYTES)),
        // Where the encoder puts them.
        ("at magic", header("magic"), 0),
        ("at version", header("version"), 8),
        ("at header_bytes", header("header_bytes"), 12),
        ("at entry_bytes", header("entry_bytes"), 16),
        ("at entries", header("entries"), 20),
        ("at cluster", header("cluster"), 24),
        ("at instance", header("instance"), 32),
        ("at crc32c", header("crc32c"), number(layout::FIXED_BYTES) - 4),
        ("at generation", header("generation"), number(layout::GENERATION_AT)),
        ("at incarnation", header("incarnation"), number(layout::INCARNATION_AT)),
        ("at pid", header("pid"), number(layout::PID_AT)),
        ("at state", header("state"), number(layout::STATE_AT)),
        ("at head", header("head"), number(layout::HEAD_AT)),
        ("at reserved", header("reserved"), number(layout::RESERVED_AT)),
        ("at sequence", entry("sequence"), 0),
        ("at message", entry("message"), 8),
        ("at publisher", entry("publisher"), 24),
    ]
}

#[test]
fn the_c_header_has_the_same_offsets_and_numbers() {
    if Command::new("cc").arg("--version").output().is_err() {
        assert!(std::env::var_os("PAGEWIRE_REQUIRE_CC").is_none(), "no cc: install a C compiler");
        eprintln!("skipped: no cc");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("facts.c"), folder.path().join("facts"));
    let prints: String = facts()
        .iter()
        .map(|(name, value, _)| {
            format!("printf(\"{name} %llu\\n\", (unsigned long long)({value}));")
        })
        .collect();
    let text = format!(
        "#include \"pagewire_si.h\"\n#include <stdio.h>\nint main(void) {{ {prints} return 0; }}\n"
    );
    fs::write(&source, text).unwrap();
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let output = Command::new("cc")
        .args(["-std=c11", "-D_DEFAULT_SOURCE", "-I"])
        .arg(include)
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = Command::new(&program).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let here: String = facts().iter().map(|(name, _, value)| format!("{name} {value}\n")).collect();
    assert_eq!(said, here);
}
