//! `pagewire verify`: the verifier as a process of its own, which shares nothing with the instances
//! but the files they left.

use crate::ledger::{
    manifest::{Manifest, ManifestError},
    verify::{self, Verification, VerifyError},
};
use std::{
    io::{self, Write},
    path::PathBuf,
};

/// Replays the transfer logs of a finished run and compares the outcome with the page file
#[derive(Debug, Clone, clap::Args)]
pub struct VerifyOptions {
    /// The manifest that preparing the relation wrote
    #[arg(long, value_name = "FILE")]
    pub manifest: PathBuf,
    /// The relation file as the run left it
    #[arg(long, value_name = "FILE")]
    pub relation: PathBuf,
    /// The transfer logs, one per instance
    #[arg(long = "log", value_name = "FILE", num_args = 1..)]
    pub logs: Vec<PathBuf>,
    /// The number of transfers that the instances reported; compared with the logs
    #[arg(long, value_name = "N")]
    pub transfers: Option<u64>,
    /// One JSON object on standard output instead of text
    #[arg(long)]
    pub json: bool,
}

/// Why the files cannot be verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyCommandError {
    /// The manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file cannot be read.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The result cannot be written.
    #[error("cannot write the result to standard output: {0}; check where it goes")]
    Output(#[from] io::Error),
}

/// Verifies and prints; true when all came out.
///
/// # Errors
/// [`VerifyCommandError`] when a file cannot be read or the result cannot be written.
pub fn run(options: &VerifyOptions) -> Result<bool, VerifyCommandError> {
    print(options, &mut io::stdout().lock())
}

fn print(options: &VerifyOptions, out: &mut impl Write) -> Result<bool, VerifyCommandError> {
    let manifest = Manifest::load(&options.manifest)?;
    let found =
        verify::verify_files(&manifest, &options.relation, &options.logs, options.transfers)?;
    if options.json {
        let text = serde_json::to_string(&found).map_err(io::Error::from)?;
        writeln!(out, "{text}")?;
    } else {
        out.write_all(text(&found).as_bytes())?;
    }
    out.flush()?;
    Ok(found.verified)
}

fn text(found: &Verification) -> String {
    let mut lines = vec![
        format!("transfers        {}", found.transfers),
        format!("total before     {}", found.total_before),
        format!("total after      {}", found.total_after),
        format!("lost updates     {}", found.lost_updates),
        format!("broken chains    {}", found.broken_chains),
        format!("wrong balances   {}", found.wrong_balances),
        format!("wrong versions   {}", found.wrong_versions),
        format!("bad checksums    {}", found.bad_checksums),
        format!("changed pages    {}", found.changed_pages),
        format!("damaged logs     {}", found.damaged_logs),
    ];
    lines.extend(found.problems.iter().map(|problem| format!("  {problem}")));
    let verdict = if found.verified { "verified" } else { "NOT VERIFIED" };
    lines.push(verdict.to_owned());
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::workload::tests::run as run_ledger;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: VerifyOptions,
    }

    #[test]
    fn options_take_many_logs() {
        let words = "verify --manifest m --relation r --log a b --log c --json --transfers 5";
        let options = Cli::try_parse_from(words.split(' ')).expect("parsed").options;
        assert_eq!(options.logs, ["a", "b", "c"].map(PathBuf::from));
        assert_eq!((options.json, options.transfers), (true, Some(5)));
    }

    #[test]
    fn the_verdict_follows_the_files() {
        let finished = run_ledger(20, 2, 1, 100);
        let manifest = finished.folder.path().join("manifest.json");
        finished.manifest.save(&manifest).expect("saved");
        let mut options = VerifyOptions {
            manifest,
            relation: finished.relation.clone(),
            logs: finished.logs.clone(),
            transfers: Some(finished.transfers),
            json: true,
        };
        let mut out = Vec::new();
        assert!(print(&options, &mut out).expect("readable"));
        let told: Verification = serde_json::from_slice(&out).expect("one JSON object");
        assert!(told.verified && told.transfers == finished.transfers);
        options.transfers = Some(finished.transfers + 1);
        options.json = false;
        assert!(!print(&options, &mut out).expect("readable"));
        options.relation = PathBuf::from("/nonexistent");
        assert!(matches!(print(&options, &mut out), Err(VerifyCommandError::Verify(_))));
    }

    #[test]
    fn the_text_ends_in_the_verdict() {
        let sound = Verification { verified: true, transfers: 7, ..Verification::default() };
        assert!(text(&sound).ends_with("\nverified\n"));
        let damaged = Verification {
            problems: vec!["block 3 is wrong".to_owned()],
            ..Verification::default()
        };
        assert!(text(&damaged).ends_with("\n  block 3 is wrong\nNOT VERIFIED\n"));
    }
}
