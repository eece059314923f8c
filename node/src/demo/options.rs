//! What `pagewire demo` can be told.

use crate::ledger::manifest::GROUP_ACCOUNTS;
use std::path::PathBuf;

/// Pages that a worker may need at a time, with some to spare: an audit holds a whole group.
pub(super) const PAGES_PER_WORKER: u32 = 16;
const _: () = assert!(GROUP_ACCOUNTS + 1 < PAGES_PER_WORKER as usize);

/// Runs a small cluster on this host, moves money between pages, and proves that nothing was lost
#[derive(Debug, Clone, clap::Args)]
pub struct DemoOptions {
    /// Instances, each a process of its own
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u16).range(2..=4))]
    pub nodes: u16,
    /// How long the workload runs, in seconds
    #[arg(long, value_name = "S", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Work on a copy of this relation file (`relfile.1` is the relation's second segment);
    /// money moves when two of its pages have free space
    #[arg(long, value_name = "FILE")]
    pub pages: Option<PathBuf>,
    /// Keep the result here, with each page's original LSN: a regular file, replaced when it is whole
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// What carries the pages; `auto` takes the best that this build has
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    pub transport: Transport,
    /// Workers of each instance
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
    /// Pages that each instance caches at most: fewer than the relation has are given up and read
    /// again all the time [default: as many as there is room for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(32..))]
    pub cache_pages: Option<u32>,
    /// Seed of the pages and of the workers' choices [default: another one each time]
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// One JSON object on standard output instead of the table
    #[arg(long)]
    pub json: bool,
}

/// What carries the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// The best that this build has: TCP.
    Auto,
    /// TCP.
    Tcp,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: DemoOptions,
    }

    pub(in crate::demo) fn parse(words: &str) -> Result<DemoOptions, clap::Error> {
        let words = std::iter::once("demo").chain(words.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.options)
    }

    #[test]
    fn options_have_defaults_and_bounds() {
        let options = parse("").expect("defaults");
        assert_eq!((options.nodes, options.seconds, options.threads), (3, 5, 2));
        assert_eq!((options.transport, options.seed, options.json), (Transport::Auto, None, false));
        let options = parse("--nodes 4 --seconds 1 --transport tcp --seed 9 --json --pages a.1");
        assert_eq!(options.expect("parsed").pages, Some(PathBuf::from("a.1")));
        for words in [
            "--nodes 1",
            "--nodes 5",
            "--seconds 0",
            "--transport verbs",
            "--threads 0",
            "--cache-pages 31",
        ] {
            assert!(parse(words).is_err(), "{words}");
        }
    }
}
