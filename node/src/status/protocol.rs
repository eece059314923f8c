//! The two lines: a question, and its answer. Pure.

use pagewire_protocol::BufferTag;
use serde_json::{Map, Value, json};

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Query {
    /// The node as a whole ([`Status`](super::Status)): its peers and their links.
    Status,
    /// One page, as its master knows it ([`PageStatus`](super::PageStatus)).
    Page(BufferTag),
}

/// Names of all questions.
const NAMES: &[&str] = &["status", "page"];

impl Query {
    /// Reads a question.
    ///
    /// # Errors
    /// What was found and what was expected, in words for whoever asks.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        let example = "expected one line of JSON such as {\"query\":\"status\"}";
        let Ok(Value::Object(fields)) = serde_json::from_slice(line) else {
            return Err(format!("found {}, {example}", in_words(line)));
        };
        match fields.get("query").and_then(Value::as_str) {
            Some("status") => Ok(Self::Status),
            Some("page") => {
                let tag = fields.get("tag").and_then(Value::as_str).unwrap_or_default();
                tag.parse().map(Self::Page).map_err(|error| format!("the field `tag`: {error}"))
            }
            Some(other) => {
                let other: String = other.chars().take(40).collect();
                Err(format!("found the query {other:?}, expected one of: {}", NAMES.join(", ")))
            }
            None => Err(format!("found no field `query` with a text, {example}")),
        }
    }

    /// The line that asks it.
    #[must_use]
    pub fn line(&self) -> String {
        let question = match self {
            Self::Status => json!({ "query": NAMES[0] }),
            Self::Page(tag) => json!({ "query": NAMES[1], "tag": tag.to_string() }),
        };
        format!("{question}\n")
    }
}

/// The line that answers.
#[must_use]
pub fn answer_line(answer: &Result<Value, String>) -> String {
    let (key, value) = match answer {
        Ok(answer) => ("answer", answer.clone()),
        Err(problem) => ("error", Value::from(problem.clone())),
    };
    format!("{}\n", Value::Object(Map::from_iter([(key.to_owned(), value)])))
}

/// Reads what [`answer_line`] wrote: what the node says, or why it does not.
///
/// # Errors
/// What was found instead, in words.
pub fn parse_answer(line: &[u8]) -> Result<Result<Value, String>, String> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(line) else {
        return Err(in_words(line));
    };
    match (fields.remove("answer"), fields.remove("error")) {
        (Some(answer @ Value::Object(_)), None) => Ok(Ok(answer)),
        (None, Some(Value::String(problem))) => Ok(Err(problem)),
        _ => Err("JSON without an answer".to_owned()),
    }
}

/// Bytes that are no line of JSON, as far as they can be told to an operator.
fn in_words(line: &[u8]) -> String {
    if line.is_empty() {
        return "nothing".to_owned();
    }
    let text: String = String::from_utf8_lossy(&line[..line.len().min(160)]).into_owned();
    let text = text.lines().next().unwrap_or_default().chars().take(40).collect::<String>();
    format!("{text:?} ({} bytes)", line.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_and_answer_survives_its_line() {
        let page = Query::Page(BufferTag { relation: 16384, block: 3, ..BufferTag::default() });
        for query in [Query::Status, page] {
            assert_eq!(Query::parse(query.line().as_bytes()), Ok(query));
        }
        // Fields of later versions are no reason to say nothing.
        assert_eq!(Query::parse(br#"{"query":"status","more":[1]}"#), Ok(Query::Status));
        for answer in [Ok(json!({"instance": 3})), Err("it is\nnot".to_owned())] {
            let line = answer_line(&answer);
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert_eq!(parse_answer(line.as_bytes()), Ok(answer));
        }
    }

    #[test]
    fn what_is_no_question_is_answered_with_what_one_is() {
        let control = [7u8, 0, 255, b'\n', b'x'];
        for (line, word) in [
            (&b""[..], "found nothing"),
            (b"GET / HTTP/1.1\r\n", "\"GET / HTTP/1.1\""),
            (b"[]", "\"[]\" (2 bytes)"),
            (b"{\"query\":1}", "no field `query`"),
            (b"{\"query\":\"book\"}", "\"book\", expected one of: status, page"),
            (b"{\"query\":\"page\"}", "`tag`: '' is no page, expected TABLESPACE"),
            (&control, "5 bytes"),
        ] {
            let problem = Query::parse(line).unwrap_err();
            assert!(problem.contains(word) && problem.contains("expected"), "{problem}");
            assert!(!problem.contains('\n') && problem.len() < 250, "{problem}");
        }
    }

    #[test]
    fn what_is_no_answer_is_told_in_words() {
        for (line, word) in [
            (&b""[..], "nothing"),
            (b"220 mail.example\r\n", "220 mail.example"),
            (b"{}", "without an answer"),
            (b"{\"answer\":1}", "without an answer"),
            (b"{\"answer\":{},\"error\":\"x\"}", "without an answer"),
        ] {
            let found = parse_answer(line).unwrap_err();
            assert!(found.contains(word), "'{word}' in: {found}");
        }
    }
}
