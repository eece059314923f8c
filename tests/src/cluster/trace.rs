//! The last actions of a simulation, in words.

use super::content::Page;
use pagewire_node::{
    grd::{Effect, Event},
    view::{Member, View},
};
use pagewire_protocol::{BufferTag, guide::GuideRecord};
use std::collections::VecDeque;

/// Actions that are remembered, and that are printed.
const REMEMBERED: usize = 20_000;
const PRINTED: usize = 60;

#[derive(Debug)]
struct Action {
    /// The page it is about; all, when it is about none.
    page: Option<usize>,
    words: String,
}

/// Written only in the second run of a seed that failed: formatting costs more than the steps.
#[derive(Debug, Default)]
pub(super) struct Trace {
    on: bool,
    actions: VecDeque<Action>,
}

impl Trace {
    pub(super) fn new(on: bool) -> Self {
        Self { on, actions: VecDeque::new() }
    }

    fn push(&mut self, page: Option<usize>, step: u64, words: &str) {
        if self.actions.len() == REMEMBERED {
            self.actions.pop_front();
        }
        let words = format!("{step:>6} {words}");
        self.actions.push_back(Action { page, words });
    }

    /// Begins a new action that is about `page`.
    pub(super) fn action(&mut self, page: usize, step: u64, words: impl FnOnce() -> String) {
        if self.on {
            self.push(Some(page), step, &words());
        }
    }

    /// Something that is about the cluster.
    pub(super) fn event(&mut self, step: u64, words: impl FnOnce() -> String) {
        if self.on {
            self.push(None, step, &format!("== {}", words()));
        }
    }

    /// Adds to the last action, or is an action of its own if it is about another page.
    pub(super) fn detail(&mut self, page: usize, words: impl FnOnce() -> String) {
        if !self.on {
            return;
        }
        let words = words();
        if words == "Again" || words.contains("LOAD_GUIDE") && !words.contains("records;") {
            return;
        }
        match self.actions.back_mut() {
            Some(action) if action.page == Some(page) => {
                action.words.push_str("\n           ");
                action.words.push_str(&words);
            }
            _ => {
                let words = format!("           {words}");
                self.actions.push_back(Action { page: Some(page), words });
            }
        }
    }

    /// The last actions about `page` and about the cluster.
    pub(super) fn into_lines(self, page: usize) -> Vec<String> {
        // What the runtime wanted and nothing came of is left out.
        let nothing = |words: &str| {
            let idle = [
                "Evict {",
                "WriteBack {",
                "PastImageWanted {",
                "Stat {",
                "Flushed {",
                "pins S by itself",
                "unpins S",
            ];
            let guide = words.contains("LOAD_GUIDE") && !words.contains("records;");
            !words.contains('\n')
                && (guide || words.ends_with("Continue") || idle.iter().any(|i| words.contains(i)))
        };
        let about = |action: &Action| {
            action.page.is_none_or(|about| about == page) && !nothing(&action.words)
        };
        let lines: Vec<_> = self.actions.into_iter().filter(about).map(|a| a.words).collect();
        lines[lines.len().saturating_sub(PRINTED)..].to_vec()
    }
}

pub(super) fn view_words(view: &View) -> String {
    let member = |m: &Member| {
        format!("{}/{}{}", m.id, m.incarnation, if m.leaving { " leaving" } else { "" })
    };
    let members: Vec<_> = view.members().iter().map(member).collect();
    let dead: Vec<_> = view.dead().iter().map(|(id, life)| format!("{id}/{life}")).collect();
    format!("view {}: [{}], dead [{}]", view.epoch(), members.join(", "), dead.join(", "))
}

/// As it is written in the code, without the types around numbers and without the page, which stands
/// before it already.
fn short(words: &str) -> String {
    let mut out = words.to_owned();
    let numbers = [
        "InstanceId(",
        "GrantNumber(",
        "Incarnation(",
        "Epoch(",
        "WaiterId(",
        "PartitionId(",
        "Lsn(",
    ];
    for wrapper in numbers {
        while let Some(from) = out.find(wrapper) {
            let Some(length) = out[from..].find(')') else { break };
            out.remove(from + length);
            out.replace_range(from..from + wrapper.len(), "");
        }
    }
    for (from, to, rest) in
        [("tag: BufferTag {", '}', ""), ("RequestId { instance: ", '}', "request ")]
    {
        while let Some(at) = out.find(from) {
            let Some(length) = out[at..].find(to) else { break };
            let until = at + length + 1;
            let inside: String = out[at + from.len()..until - 1]
                .split(", ")
                .map(last_word)
                .collect::<Vec<_>>()
                .join("/");
            let said = if rest.is_empty() { String::new() } else { inside };
            let until =
                if said.is_empty() && out[until..].starts_with(", ") { until + 2 } else { until };
            out.replace_range(at..until, &said);
        }
    }
    out
}

fn last_word(words: &str) -> &str {
    words.trim().rsplit(' ').next().unwrap_or_default()
}

pub(super) fn event_words(event: &Event, pages: &[Page]) -> String {
    match event {
        Event::Message { from, incarnation, epoch, message, .. } => {
            short(&format!("<- {from}/{incarnation} in epoch {epoch}: {message:?}"))
        }
        Event::View(view) => format!("hears of view {}", view.epoch()),
        Event::LoadGuide { from, incarnation, epoch, batch, last } => short(&format!(
            "<- {from}/{incarnation} LOAD_GUIDE of view {epoch}, last {last}: {}",
            batch_words(batch, pages)
        )),
        event => short(&format!("{event:?}")),
    }
}

pub(super) fn effect_words(effect: &Effect, pages: &[Page]) -> String {
    match effect {
        Effect::Send { to, epoch, message, .. } => {
            short(&format!("-> {to} in epoch {epoch}: {message:?}"))
        }
        Effect::LoadGuide { to, epoch, batch, last } => short(&format!(
            "-> {to} LOAD_GUIDE of view {epoch}, last {last}: {}",
            batch_words(batch, pages)
        )),
        effect => short(&format!("{effect:?}")),
    }
}

/// What a batch says of our pages.
fn batch_words(batch: &[GuideRecord], pages: &[Page]) -> String {
    let mut words = vec![format!("{} records", batch.len())];
    let page = |found: &dyn Fn(&BufferTag) -> bool| pages.iter().position(|page| found(&page.tag));
    for record in batch {
        match record {
            GuideRecord::Page { tag, epoch, report } => {
                let page = page(&|own| own == tag);
                words.push(format!("page {page:?} in epoch {epoch}: {report:?}"));
            }
            GuideRecord::End { partition, epoch } | GuideRecord::Whole { partition, epoch } => {
                if let Some(page) = page(&|own| own.partition() == *partition) {
                    words.push(format!("end of page {page} in epoch {epoch}"));
                }
            }
            GuideRecord::Nothing { epoch } => words.push(format!("nothing up to {epoch}")),
        }
    }
    words.join("; ")
}
