//! What `ucx_perftest -f -v` prints: a line of names, separated by commas, and a line of numbers.
//!
//! ```text
//!   iterations,50.0_percentile_lat,avg_lat,overall_lat,avg_bw,overall_bw,avg_mr,overall_mr
//!   20000,6.347,48.416,57.871,1.26,1.05,20654,17280
//! ```
//! Columns are found by their names, so that one more or less does no harm. Other lines (a warning
//! of the library, for one) are passed over.

use super::test::Figure;
use crate::error::BenchError;

/// Longest excerpt of unexpected output in an error.
const EXCERPT_CHARS: usize = 400;

/// The figure in `text`.
///
/// # Errors
/// [`BenchError::Tool`] when it is not there, or is no positive number.
pub(super) fn figure(text: &str, figure: Figure) -> Result<f64, BenchError> {
    find(text, figure).ok_or_else(|| {
        let excerpt: String = text.trim().chars().take(EXCERPT_CHARS).collect();
        BenchError::Tool(format!(
            "ucx_perftest -f -v printed no {}, expected a line of names that begins with \
             \"iterations\" and a line of numbers; found: {excerpt:?}",
            match figure {
                Figure::HalfRoundTrip => "percentile of the latency",
                Figure::Rate => "overall message rate",
            }
        ))
    })
}

fn find(text: &str, figure: Figure) -> Option<f64> {
    let mut column = None;
    let mut found = None;
    for line in text.lines().map(str::trim) {
        let cells: Vec<_> = line.split(',').map(str::trim).collect();
        if cells[0] == "iterations" {
            column =
                cells.iter().position(|name| is_column(name, figure)).map(|at| (at, cells.len()));
        } else if let Some((at, count)) = column
            && cells.len() == count
            && cells[0].parse::<u64>().is_ok()
        {
            // Of several lines the last is the final one.
            found = cells[at].parse::<f64>().ok();
        }
    }
    found.filter(|value| value.is_finite() && *value > 0.0)
}

fn is_column(name: &str, figure: Figure) -> bool {
    match figure {
        Figure::HalfRoundTrip => name.contains("percentile"),
        Figure::Rate => name == "overall_mr",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENCY: &str =
        "iterations,50.0_percentile_lat,avg_lat,overall_lat,avg_bw,overall_bw,avg_mr,overall_mr
20000,6.347,48.416,57.871,1.26,1.05,20654,17280
";

    #[test]
    fn both_figures_are_found_by_the_names_of_their_columns() {
        assert_eq!(find(LATENCY, Figure::HalfRoundTrip), Some(6.347));
        assert_eq!(find(LATENCY, Figure::Rate), Some(17280.0));
        let fewer = "iterations,overall_mr\n5,12\n";
        assert_eq!(find(fewer, Figure::Rate), Some(12.0));
        assert_eq!(find(fewer, Figure::HalfRoundTrip), None);
    }

    #[test]
    fn warnings_around_the_figures_are_passed_over() {
        let text = format!("[1700.1] warn: a, b, c\r\n{LATENCY}[1700.2] goodbye, all\n");
        assert_eq!(find(&text, Figure::HalfRoundTrip), Some(6.347));
    }

    #[test]
    fn the_last_of_several_lines_counts() {
        let text = format!("{LATENCY}40000,7.5,1,1,1,1,1,9\n");
        assert_eq!(find(&text, Figure::HalfRoundTrip), Some(7.5));
        assert_eq!(find(&text, Figure::Rate), Some(9.0));
    }

    #[test]
    fn output_without_a_figure_is_an_error_that_shows_it() {
        let names = LATENCY.lines().next().unwrap();
        for text in [
            "",
            "Failed to connect",
            names,
            &format!("{names}\n20000,6.3\n"),
            &format!("{names}\nx,1,2,3,4,5,6,7\n"),
            &format!("{names}\n20000,nan,1,1,1,1,1,inf\n"),
            &format!("{names}\n20000,0.000,1,1,1,1,1,0\n"),
        ] {
            for wanted in [Figure::HalfRoundTrip, Figure::Rate] {
                let error = figure(text, wanted).unwrap_err().to_string();
                assert!(error.contains("iterations"), "{text}: {error}");
            }
        }
        assert!(
            figure("Failed to connect", Figure::Rate).unwrap_err().to_string().contains("Failed")
        );
    }
}
