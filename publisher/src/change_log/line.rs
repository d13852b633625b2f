//! A change as a line of JSON Lines.

/// What [`push`] adds to a row that is gone. It stands first, because the first of two fields with one name counts.
const DELETED: &[u8] = b"{\"_deleted\":true";

/// Appends a change's row, whose bytes may be anything: a reader looks at them before they are published. In JSON a line break
/// is only ever space between tokens; it would end the row.
pub(super) fn push(row: &[u8], delete: bool, lines: &mut Vec<u8>) {
    let row = row.trim_ascii();
    let rest = match row.strip_prefix(b"{") {
        Some(fields) if delete => {
            lines.extend_from_slice(DELETED);
            if !fields.trim_ascii_start().starts_with(b"}") {
                lines.push(b',');
            }
            fields
        }
        _ => row,
    };
    lines.extend(rest.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(row: &str, delete: bool) -> String {
        let mut lines = Vec::new();
        push(row.as_bytes(), delete, &mut lines);
        String::from_utf8(lines).unwrap()
    }

    #[test]
    fn a_row_is_one_line_as_it_was_written() {
        assert_eq!(line(" {\"a\": 19.90,\n\"b\":\"x\\ny\"}\n", false), "{\"a\": 19.90, \"b\":\"x\\ny\"}\n");
    }

    #[test]
    fn a_deletion_says_so_before_anything_else() {
        assert_eq!(line(r#"{"a":1,"_deleted":false}"#, true), "{\"_deleted\":true,\"a\":1,\"_deleted\":false}\n");
        assert_eq!(line("{ }", true), "{\"_deleted\":true }\n");
    }
}
