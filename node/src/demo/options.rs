//! What `pagewire demo` can be told.

use crate::ledger::manifest::GROUP_ACCOUNTS;
use pagewire_transport::link::verbs::Overrides;
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
    /// Add an instance in mid-run; with --leave before one leaves
    #[arg(long)]
    pub join: bool,
    /// Retire an instance in mid-run, in order: all that it has moves to the others
    #[arg(long)]
    pub leave: bool,
    /// Work on a copy of this relation file (`relfile.1` is the relation's second segment);
    /// money moves when two of its pages have free space
    #[arg(long, value_name = "FILE")]
    pub pages: Option<PathBuf>,
    /// Keep the result here, with each page's original LSN: a regular file, replaced when it is whole
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Keep the folder of the run and say where it is: relation, manifest, transfer logs (for `pagewire
    /// verify`), the instances' configurations; not of one that a signal ends
    #[arg(long)]
    pub keep: bool,
    /// What carries the pages
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    pub transport: Transport,
    /// RDMA device of the instances; with --transport verbs the only one there is, when left out
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub rdma_device: Option<String>,
    /// Its port [default with --transport verbs: the first that is active]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub rdma_port: Option<u8>,
    /// Index of the port's GID [default with --transport verbs: a RoCE v2 one, IPv4 if there is]
    #[arg(long, value_name = "N")]
    pub rdma_gid_index: Option<u8>,
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
    /// RDMA verbs where a device has the address or is named, otherwise TCP: here the instances
    /// listen on a loopback address
    Auto,
    /// RDMA verbs and nothing else
    Verbs,
    /// TCP
    Tcp,
}

impl Transport {
    /// Its name, as the user and an instance's configuration write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Verbs => "verbs",
            Self::Tcp => "tcp",
        }
    }
}

impl DemoOptions {
    /// What the user named of the RDMA devices.
    pub(super) fn rdma(&self) -> Overrides {
        Overrides {
            device: self.rdma_device.clone(),
            port: self.rdma_port,
            gid_index: self.rdma_gid_index.map(u32::from),
        }
    }
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
        assert!(!options.join && !options.leave);
        let options = parse("--join --leave").expect("parsed");
        assert!(options.join && options.leave);
        let options = parse("--nodes 4 --seconds 1 --transport tcp --seed 9 --json --pages a.1");
        assert_eq!(options.expect("parsed").pages, Some(PathBuf::from("a.1")));
        let options =
            parse("--transport verbs --rdma-device rxe0 --rdma-port 1 --rdma-gid-index 0");
        let options = options.expect("parsed");
        assert_eq!(options.transport, Transport::Verbs);
        let named =
            Overrides { device: Some("rxe0".to_owned()), port: Some(1), gid_index: Some(0) };
        assert_eq!(options.rdma(), named);
        for words in [
            "--nodes 1",
            "--nodes 5",
            "--seconds 0",
            "--transport rdma",
            "--rdma-port 0",
            "--rdma-gid-index 256",
            "--threads 0",
            "--cache-pages 31",
        ] {
            assert!(parse(words).is_err(), "{words}");
        }
    }
}
