use super::*;
use crate::results::tests::{sample, slower};

fn whole() -> String {
    let old = sample();
    let new = slower(&old, 1.1, 1.4);
    run_page(&new, Some(&Comparison::new(&old, &new)))
}

#[test]
fn the_page_needs_nothing_else() {
    let page = whole();
    for foreign in ["<script", "<link", "<img", "src=", "url(", "@import", "href="] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    let addresses = page.matches("://").count();
    assert_eq!(addresses, page.matches("http://www.w3.org/2000/svg").count());
}

#[test]
fn every_plot_and_every_figure_is_there() {
    let page = whole();
    for heading in [
        "Latency",
        "Throughput and CPU time",
        "Against the old run",
        "Percentiles",
        "Throughput over queue depth",
        "Latency over offered load",
        "CPU time per operation",
        "Each client",
        "The run",
        "How to read this",
    ] {
        assert_eq!(page.matches(&format!("<h2>{heading}</h2>")).count(), 1, "{heading}");
    }
    let results = slower(&sample(), 1.1, 1.4);
    for one in &results.results {
        let name = escape(&one.what.name());
        assert!(page.matches(&name).count() >= 3, "{name}");
        assert!(page.contains(&time(one.outcome.response.percentiles().p9999_ns as f64)), "{name}");
    }
    assert!(page.contains("&lt;&quot;one&quot;&gt;") && !page.contains("NaN"));
    assert!(page.contains("class=\"ring") && page.contains("saturated"));
}

/// Every element is closed by its own tag, in order.
#[test]
fn the_markup_is_well_formed() {
    let page = whole();
    let mut open: Vec<&str> = Vec::new();
    for tag in page.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("a tag ends");
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap_or_default();
        if tag.starts_with('!') || tag.ends_with('/') || name == "meta" {
            continue;
        }
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
        } else {
            open.push(name);
        }
        let quotes = tag.matches('"').count();
        assert!(quotes.is_multiple_of(2), "quotes in <{tag}>");
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_run_of_nothing_is_a_page() {
    let page = run_page(&Results::default(), None);
    assert!(page.contains("How to read this") && !page.contains("<svg"));
}

/// Writes the page to a file, to look at: `cargo test -p doorbell-bench -- --ignored look`.
#[test]
#[ignore = "for looking at"]
#[allow(clippy::print_stdout, reason = "it says where")]
fn look_at_a_run() {
    let file = std::env::temp_dir().join("doorbell-run.html");
    std::fs::write(&file, whole()).unwrap();
    println!("{}", file.display());
}
