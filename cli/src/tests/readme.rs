//! What the README says is what is there.

use std::path::Path;

fn read(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn the_readmes_program_is_the_example_byte_for_byte() {
    let readme = read("README.md");
    let (_, after) = readme.split_once("<!-- examples/embed.rs -->\n```rust\n").expect("the README has the block");
    let (block, _) = after.split_once("```\n").expect("the block ends");
    assert!(!block.is_empty(), "the block is empty");
    assert_eq!(block, read("examples/embed.rs"));
}

#[test]
fn the_readme_names_the_two_commands() {
    let readme = read("README.md");
    for command in ["cargo run --release --example quickstart", "cargo xtask test"] {
        assert!(readme.lines().any(|line| line == command), "the README has no line {command:?}");
    }
}
