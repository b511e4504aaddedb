//! The Rust code blocks of the book and the README, compiled, and run unless they say `no_run`.
//!
//! Each page becomes a module of a small generated crate: its Rust blocks as doc comments, every other line left blank, so
//! that the line that a failing doc test names is the line of the page. The generated crate has this workspace's
//! dependency versions, lock file and profile, and so uses what is compiled already.
//!
//! Rules for the pages: a block counts if its language is `rust`. `no_run`, `should_panic` and `compile_fail` mean what
//! they mean to rustdoc; `ignore` is refused, as nothing would keep such a block true (what is no Rust can be `text`).
//! A block that includes a file is left out: that file is compiled where it lies.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::exec;
use crate::workspace::Workspace;

/// What a sample may use, with the features that a reader's `Cargo.toml` would name.
const DEPENDENCIES: &str = r#"
[dependencies]
anyhow.workspace = true
bytemuck.workspace = true
doorbell = { workspace = true, features = ["client", "broker", "soft", "hwloc"] }
doorbell-edu = { workspace = true, features = ["driver", "client", "soft"] }
doorbell-nvme = { workspace = true, features = ["driver", "client", "soft"] }
doorbell-queues.workspace = true
pollster.workspace = true
tokio.workspace = true
tokio-uring.workspace = true
"#;

/// A page, and its path from the workspace's root.
type Page = (PathBuf, String);

/// Extracts the samples of every page and runs them as doc tests.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let pages = pages(&workspace.root)?;
    let folder = workspace.target.join("book-samples");
    generate(&workspace.root, &folder, &pages)?;
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--doc", "--no-fail-fast", "--manifest-path"]);
    cargo.arg(folder.join("Cargo.toml")).arg("--target-dir").arg(&workspace.target);
    exec::run(&mut cargo).context("a code sample of the book or the README does not hold")
}

/// The README, where there is one, and every page of the book.
fn pages(root: &Path) -> Result<Vec<Page>> {
    let mut files = vec![];
    if root.join("README.md").is_file() {
        files.push(root.join("README.md"));
    }
    find_markdown(&root.join("book/src"), &mut files)?;
    files.sort();
    let read = |file: PathBuf| {
        let text = fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
        Ok((file.strip_prefix(root)?.to_path_buf(), text))
    };
    files.into_iter().map(read).collect()
}

fn find_markdown(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("{}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find_markdown(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
    Ok(())
}

/// Writes the crate of samples to `folder`, in place of an older one.
fn generate(root: &Path, folder: &Path, pages: &[Page]) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    let mut library = String::from("//! Generated: the code samples of the book and the README.\n");
    for (path, text) in pages {
        let comment = doc_comment(text).with_context(|| path.display().to_string())?;
        write(&folder.join(path), &comment)?;
        let path = path.to_string_lossy();
        library += &format!("#[path = \"{path}\"]\npub mod {};\n", module_name(&path));
    }
    write(&folder.join("lib.rs"), &library)?;
    let manifest = fs::read_to_string(root.join("Cargo.toml")).context("Cargo.toml")?;
    write(&folder.join("Cargo.toml"), &generated_manifest(&manifest, root)?)?;
    fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).context("Cargo.lock")?;
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    fs::write(file, text).with_context(|| format!("{}", file.display()))
}

/// A module name for a page: `book/src/how-to.md` becomes `book_src_how_to`.
fn module_name(path: &str) -> String {
    let stem = path.strip_suffix(".md").unwrap_or(path).to_lowercase();
    stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// The generated crate's manifest: a workspace of its own with this one's versions and profile.
fn generated_manifest(manifest: &str, root: &Path) -> Result<String> {
    let section =
        |name| section(manifest, name).with_context(|| format!("Cargo.toml: no [{name}]"));
    // Paths in it are relative to the root, and the generated crate lies elsewhere.
    let here = format!("path = \"{}/", root.display());
    let dependencies = section("workspace.dependencies")?.replace("path = \"", &here);
    let package = "\n[package]\nname = \"doorbell-book-samples\"\nversion.workspace = true\n\
                   edition.workspace = true\npublish = false\n\n[lib]\npath = \"lib.rs\"\n";
    Ok([
        "# Generated by `cargo xtask ci`, step `samples`.\n[workspace]\n",
        &section("workspace.package")?,
        &dependencies,
        &section("profile.dev")?,
        package,
        DEPENDENCIES,
    ]
    .join("\n"))
}

/// A section of a manifest, from its header to the line before the next header.
fn section(manifest: &str, name: &str) -> Option<String> {
    let header = format!("[{name}]");
    let mut lines = manifest.lines().skip_while(|line| line.trim_end() != header);
    let first = lines.next()?;
    let rest = lines.take_while(|line| !line.starts_with('['));
    Some(std::iter::once(first).chain(rest).map(|line| format!("{line}\n")).collect())
}

/// A fence around a code block: its indentation, its character and how many of them, and the words behind it.
#[derive(Debug, Clone, Copy)]
struct Fence<'a> {
    indent: usize,
    mark: char,
    length: usize,
    info: &'a str,
}

impl<'a> Fence<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let body = line.trim_start();
        let mark = body.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
        let info = body.trim_start_matches(mark);
        let length = body.len() - info.len();
        let is_fence = length >= 3 && !(mark == '`' && info.contains('`'));
        let indent = line.len() - body.len();
        is_fence.then(|| Fence { indent, mark, length, info: info.trim() })
    }

    /// Whether this line ends the block that `opening` began.
    fn closes(&self, opening: &Fence<'_>) -> bool {
        self.mark == opening.mark && self.length >= opening.length && self.info.is_empty()
    }

    fn words(&self) -> impl Iterator<Item = &'a str> {
        self.info.split([',', ' ', '\t']).filter(|word| !word.is_empty())
    }
}

/// A page as doc comments: its Rust blocks, every line in its place, and nothing else.
fn doc_comment(page: &str) -> Result<String> {
    let lines: Vec<_> = page.lines().collect();
    let mut kept = vec![None; lines.len()];
    let mut at = 0;
    while at < lines.len() {
        let Some(opening) = Fence::parse(lines[at]) else {
            at += 1;
            continue;
        };
        let closes = |line: &&str| Fence::parse(line).is_some_and(|fence| fence.closes(&opening));
        let length = lines[at + 1..].iter().position(closes);
        let end =
            at + 1 + length.with_context(|| format!("line {}: no end of this block", at + 1))?;
        if is_sample(&opening, &lines[at + 1..end]).with_context(|| format!("line {}", at + 1))? {
            for number in at..=end {
                kept[number] = Some(without_indent(lines[number], opening.indent));
            }
        }
        at = end + 1;
    }
    let comment = |line: Option<&str>| match line {
        Some(line) => format!("//! {line}\n"),
        None => "//!\n".to_owned(),
    };
    Ok(kept.into_iter().map(comment).collect())
}

/// Whether a block is Rust code that stands in the page itself.
fn is_sample(fence: &Fence<'_>, code: &[&str]) -> Result<bool> {
    if fence.words().next() != Some("rust") {
        return Ok(false);
    }
    if fence.words().any(|word| word.starts_with("ignore")) {
        bail!(
            "a Rust block that is never compiled: `no_run` compiles it, `text` says it is no Rust"
        );
    }
    Ok(!code.iter().any(|line| line.contains("{{#")))
}

/// The line without the indentation of the list that its block stands in.
fn without_indent(line: &str, indent: usize) -> &str {
    let spaces = line.len() - line.trim_start_matches(' ').len();
    &line[spaces.min(indent)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_blocks_keep_their_lines_and_all_else_is_blank() {
        let page = "# A page\n\n    let indented = \"not Rust to us\";\n\n```\nplain\n```\n\
                    ```rust,no_run\nlet a = 1;\n\nlet b = \"```\";\n```\nEnd.\n";
        assert_eq!(
            doc_comment(page).unwrap(),
            "//!\n//!\n//!\n//!\n//!\n//!\n//!\n//! ```rust,no_run\n//! let a = 1;\n//! \n\
             //! let b = \"```\";\n//! ```\n//!\n"
        );
    }

    #[test]
    fn a_block_in_a_list_loses_the_lists_indentation() {
        let page = "1. First:\n   ```rust\n   fn f() {\n       g();\n   }\n   ```\n";
        assert_eq!(
            doc_comment(page).unwrap(),
            "//!\n//! ```rust\n//! fn f() {\n//!     g();\n//! }\n//! ```\n"
        );
    }

    #[test]
    fn rust_shown_inside_another_block_is_text() {
        let page = "````markdown\n```rust\nnot code\n```\n````\n~~~rust\nlet a = 1;\n~~~\n";
        assert_eq!(
            doc_comment(page).unwrap(),
            "//!\n//!\n//!\n//!\n//!\n//! ~~~rust\n//! let a = 1;\n//! ~~~\n"
        );
    }

    #[test]
    fn a_block_that_includes_a_file_is_left_to_that_file() {
        let page = "```rust\n{{#include ../../examples/src/read.rs}}\n```\n";
        assert_eq!(doc_comment(page).unwrap(), "//!\n//!\n//!\n");
    }

    #[test]
    fn a_block_that_nothing_checks_is_refused() {
        for info in ["rust,ignore", "rust ignore", "rust,ignore-aarch64"] {
            let error = doc_comment(&format!("text\n```{info}\nf();\n```\n")).unwrap_err();
            assert!(
                format!("{error:#}").starts_with("line 2: a Rust block that is never"),
                "{error:#}"
            );
        }
        assert!(doc_comment("```rust\nlet never = ended;\n").is_err());
    }

    #[test]
    fn the_generated_manifest_points_back_at_the_workspace() {
        let manifest = "[workspace]\nmembers = []\n\n[workspace.package]\nversion = \"0.1.0\"\n\
                        [workspace.dependencies]\ndoorbell = { path = \"framework\" }\n\n\
                        anyhow = \"1\"\n[profile.dev]\nopt-level = 1\n[profile.release]\nlto = true\n";
        let generated = generated_manifest(manifest, Path::new("/src/d")).unwrap();
        assert!(
            generated.contains("doorbell = { path = \"/src/d/framework\" }\n\nanyhow = \"1\"\n")
        );
        assert!(generated.contains("[profile.dev]\nopt-level = 1\n"));
        assert!(!generated.contains("members") && !generated.contains("lto"), "{generated}");
        assert!(generated_manifest("[workspace]\n", Path::new("/")).is_err());
    }

    #[test]
    fn page_names_become_module_names() {
        assert_eq!(module_name("book/src/life-of-one-io.md"), "book_src_life_of_one_io");
        assert_eq!(module_name("README.md"), "readme");
    }
}
