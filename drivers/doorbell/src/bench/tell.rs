//! What is printed, and the files of a report.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use doorbell_bench::Results;
use doorbell_bench::report::{run_page, run_text};
use doorbell_bench::results::{Comparison, to_csv};

use crate::cli::Bench;
use crate::output;

/// The files of a report, beside each other.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Files {
    html: PathBuf,
    json: PathBuf,
    csv: PathBuf,
}

impl Files {
    /// `bench` and `bench.html` both mean bench.html, bench.json and bench.csv.
    pub(super) fn new(name: &Path) -> Self {
        let extension = name.extension().and_then(|extension| extension.to_str());
        let with = |ending: &str| match extension {
            Some("html" | "htm" | "json" | "csv") => name.with_extension(ending),
            _ => {
                let mut long = name.as_os_str().to_owned();
                long.push(format!(".{ending}"));
                PathBuf::from(long)
            }
        };
        Self { html: with("html"), json: with("json"), csv: with("csv") }
    }

    /// True if writing the report would overwrite a file.
    pub(super) fn would_overwrite(&self, file: &Path) -> bool {
        let place = |file: &Path| fs::canonicalize(file).ok();
        place(file).is_some_and(|it| {
            [&self.html, &self.json, &self.csv]
                .into_iter()
                .any(|ours| place(ours).as_ref() == Some(&it))
        })
    }
}

/// Writes the report, and prints.
pub(super) fn tell(
    args: &Bench,
    results: &Results,
    old: Option<&Results>,
    files: Option<&Files>,
) -> Result<()> {
    let comparison = old.map(|old| Comparison::new(old, results));
    let json = results.to_json().context("writing JSON")? + "\n";
    if let Some(files) = files {
        let write = |file: &Path, text: &str| {
            fs::write(file, text)
                .with_context(|| format!("writing the report to {}", file.display()))
        };
        write(&files.html, &run_page(results, comparison.as_ref()))?;
        write(&files.json, &json)?;
        write(&files.csv, &to_csv(results))?;
    }
    if args.json {
        return output::print(json);
    }
    let mut text = run_text(results, comparison.as_ref());
    if let Some(files) = files {
        let page = files.html.display();
        text.push_str(&format!("\nThe same with plots: {page}; beside it .json and .csv\n"));
    }
    output::print(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_three_files_beside_each_other() {
        let files = Files::new(Path::new("a/b.html"));
        assert_eq!(files, Files::new(Path::new("a/b")));
        assert_eq!(files.csv, Path::new("a/b.csv"));
        assert_eq!(Files::new(Path::new("run.1")).json, Path::new("run.1.json"));
        assert_eq!(Files::new(Path::new("b.json")).html, Path::new("b.html"));
    }

    #[test]
    fn an_old_report_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("old.json");
        fs::write(&old, "{}").unwrap();
        assert!(Files::new(&folder.path().join("old.html")).would_overwrite(&old));
        assert!(!Files::new(&folder.path().join("new")).would_overwrite(&old));
    }
}
