//! Other people's text in our errors: escaped, and never more than a line of it.

const SHOWN_MAX: usize = 80;

/// `text` in quotes, escaped, cut after 80 characters.
pub(crate) fn quote(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}
