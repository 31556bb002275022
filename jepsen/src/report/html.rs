//! Html: the little that the report needs to write a page.

use std::fmt::Display;

/// Text that means itself.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// A table; cells are HTML, and those of all columns but the first `texts` are numbers.
pub(super) fn table(head: &[&str], texts: usize, rows: &[Vec<String>]) -> String {
    let mut out = String::from(r#"<div class="scroll"><table><thead><tr>"#);
    for (column, name) in head.iter().enumerate() {
        out.push_str(&cell("th", column >= texts, &escape(name)));
    }
    out.push_str("</tr></thead><tbody>");
    for row in rows {
        out.push_str("<tr>");
        for (column, text) in row.iter().enumerate() {
            out.push_str(&cell("td", column >= texts, text));
        }
        out.push_str("</tr>");
    }
    out + "</tbody></table></div>"
}

fn cell(tag: &str, is_number: bool, text: &str) -> String {
    let class = if is_number { r#" class="n""# } else { "" };
    format!("<{tag}{class}>{text}</{tag}>")
}

/// A part of the page under a heading.
pub(super) fn section(heading: &str, content: &str) -> String {
    format!("<section><h2>{}</h2>{content}</section>", escape(heading))
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number and a noun, in the plural where it must be.
pub(super) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// A big number with a word below.
pub(super) fn tile(value: impl Display, word: &str) -> String {
    format!(r#"<div class="tile"><b>{value}</b><span>{}</span></div>"#, escape(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_means_itself() {
        assert_eq!(escape(r#"<b a="1">&'"#), "&lt;b a=&quot;1&quot;&gt;&amp;&#39;");
    }

    #[test]
    fn numbers_are_grouped_from_the_right() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
