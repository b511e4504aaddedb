//! One HTML file that needs nothing else: no scripts, no other files, light or dark as the reader's
//! system says, and light on paper.

use std::fmt::Write;

use super::svg::escape;
use super::units::{count, time, times};
use super::{Kind, Report, Row, plots};

const STYLE: &str = include_str!("style.css");

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    let title = escape(&report.title);
    let mut body =
        format!("<h1>{title}</h1>\n<p class=\"summary\">{}</p>\n", escape(&report.summary));
    body.push_str(&table(report));
    if let Some(plot) = plots::medians(report) {
        let has_goal = report.rows.iter().any(|row| row.goal.is_some());
        let goal = if has_goal { " The dashed line is the goal." } else { "" };
        let text = format!(
            "Median of each figure, and of its floor: the same exchange over bare shared memory, \
             measured in the same run.{goal}"
        );
        figure(&mut body, "Beside the floors", &text, &plot);
    }
    if let Some(plot) = plots::percentiles(report) {
        let text = "How slow the slowest are: read a curve at p99 for what 99 of 100 operations \
                    did not exceed. Both scales are logarithmic.";
        figure(&mut body, "Percentiles", text, &plot);
    }
    let histograms: String = report
        .of_kind(Kind::Figure)
        .filter_map(|row| plots::histogram(report, row))
        .map(|plot| format!("<div>{plot}</div>\n"))
        .collect();
    if !histograms.is_empty() {
        let text = "How often each latency occurred, from the fastest to the slowest thousandth, \
                    which hold what lies beyond. The scale of time is logarithmic.";
        figure(
            &mut body,
            "Histograms",
            text,
            &format!("<div class=\"multiples\">{histograms}</div>"),
        );
    }
    facts(&mut body, report);
    notes(&mut body, report);
    document(&title, &body)
}

/// A whole page around a body; the title is escaped already.
pub(super) fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

fn figure(body: &mut String, heading: &str, text: &str, plot: &str) {
    // Writing to a String cannot fail.
    let _ = write!(
        body,
        "<section>\n<h2>{heading}</h2>\n<figure>\n<figcaption>{text}</figcaption>\n{plot}</figure>\n</section>\n"
    );
}

fn table(report: &Report) -> String {
    if report.rows.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "<section>\n<h2>Figures</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th></th><th>p50</th>\
         <th>p99</th><th>p99.9</th><th>IOPS</th><th>floor</th><th>ratio</th></tr></thead>\n",
    );
    for (kind, class) in [(Kind::Floor, "floors"), (Kind::Figure, "figures")] {
        let rows: String = report.of_kind(kind).map(|row| table_row(report, row)).collect();
        if !rows.is_empty() {
            let _ = writeln!(text, "<tbody class=\"{class}\">\n{rows}</tbody>");
        }
    }
    text.push_str("</table></div>\n</section>\n");
    text
}

fn table_row(report: &Report, row: &Row) -> String {
    let latency = row.series.latency();
    let floor = report.floor_of(row).map(|floor| time(floor.series.latency().p50_ns as f64));
    let cells: String = [
        time(latency.p50_ns as f64),
        time(latency.p99_ns as f64),
        time(latency.p999_ns as f64),
        count(latency.iops),
        floor.unwrap_or_default(),
        report.ratio(row).map(times).unwrap_or_default(),
    ]
    .iter()
    .map(|cell| format!("<td>{cell}</td>"))
    .collect();
    format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", escape(&row.name))
}

fn facts(body: &mut String, report: &Report) {
    if report.facts.is_empty() {
        return;
    }
    body.push_str("<section>\n<h2>The run</h2>\n<dl>\n");
    for fact in &report.facts {
        let (name, value) = (escape(&fact.name), escape(&fact.value));
        let _ = writeln!(body, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    body.push_str("</dl>\n</section>\n");
}

fn notes(body: &mut String, report: &Report) {
    if report.notes.is_empty() {
        return;
    }
    body.push_str("<section class=\"notes\">\n<h2>How to read this</h2>\n<ul>\n");
    for note in &report.notes {
        let _ = writeln!(body, "<li>{}</li>", escape(note));
    }
    body.push_str("</ul>\n</section>\n");
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn the_page_needs_nothing_else() {
        let page = page(&sample());
        for foreign in ["<script", "<link", "<img", "src=", "url(", "@import", "href="] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        let addresses = page.matches("://").count();
        assert_eq!(addresses, page.matches("http://www.w3.org/2000/svg").count());
    }

    #[test]
    fn every_row_fact_and_note_is_there() {
        let report = sample();
        let page = page(&report);
        assert!(page.contains("Doorbell &lt;demo&gt; &amp; more"));
        assert_eq!(page.matches("<th scope=").count(), report.rows.len());
        assert!(page.contains("12345") && page.contains("no performance claims"));
        for tag in ["section", "table", "figure", "svg", "div", "main"] {
            let count = |text: String| page.matches(&text).count();
            assert_eq!(count(format!("<{tag}")), count(format!("</{tag}>")), "{tag}");
        }
    }

    /// Writes the page to a file, to look at: `cargo test -p doorbell-bench -- --ignored look`.
    #[test]
    #[ignore = "for looking at"]
    fn look() {
        let file = std::env::temp_dir().join("doorbell-report.html");
        std::fs::write(&file, page(&sample())).unwrap();
        println!("{}", file.display());
    }
}
