//! Markdown source to messages and code blocks, exact: the fences are in the text, not guessed from a screen.

use serde_json::Value;

use crate::extract::event::{Body, MAX_TEXT_BYTES, capped};

/// Returns the events of one message: the message itself, then each fenced block in it.
pub(super) fn message(text: &str) -> Vec<Body> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    let blocks = blocks(text);
    let (text, truncated) = capped(text.to_owned(), MAX_TEXT_BYTES);
    let mut bodies = vec![Body::Message { text, exact: true, truncated }];
    bodies.extend(blocks.into_iter().map(|(lang, text)| {
        let (text, truncated) = capped(text, MAX_TEXT_BYTES);
        Body::CodeBlock { lang, text, exact: true, truncated }
    }));
    bodies
}

/// Returns the end of a tool call.
pub(super) fn tool_finished(
    id: Option<String>,
    name: &str,
    ok: Option<bool>,
    exit_code: Option<i32>,
    output: Option<String>,
) -> Body {
    let (output, truncated) = match output.map(|o| capped(o, MAX_TEXT_BYTES)) {
        Some((output, truncated)) => (Some(output), truncated),
        None => (None, false),
    };
    Body::ToolFinished { id, name: name.to_owned(), ok, exit_code, output, truncated }
}

/// Returns what a permission request is about, in full: the command where there is one, else the tool and its input.
pub(super) fn wanted(tool: &str, input: &Value) -> String {
    match input.get("command").and_then(Value::as_str) {
        Some(command) => command.to_owned(),
        None => format!("{tool} {input}"),
    }
}

/// An open fence.
struct Fence {
    mark: u8,
    len: usize,
    /// Columns of indentation, taken off each line of the block.
    indent: usize,
    lang: Option<String>,
    text: String,
}

/// Returns the fenced blocks of `markdown` as (language, text). A block's text ends with a newline unless it is empty;
/// a fence inside a list item loses the item's indentation, as CommonMark says. A block never closed runs to the end.
fn blocks(markdown: &str) -> Vec<(Option<String>, String)> {
    let mut found = Vec::new();
    let mut open: Option<Fence> = None;
    let mut item = 0; // where the content of the list item begins that we are in
    for line in markdown.lines() {
        let indent = line.bytes().take_while(|b| *b == b' ').count();
        let rest = &line[indent..];
        if let Some(fence) = &mut open {
            let (run, tail) = run_of(rest, fence.mark);
            if run >= fence.len && tail.trim().is_empty() && indent < fence.indent + 4 {
                let fence = open.take().expect("it is open");
                found.push((fence.lang, fence.text));
            } else {
                fence.text.push_str(&line[indent.min(fence.indent)..]);
                fence.text.push('\n');
            }
            continue;
        }
        if rest.is_empty() {
            continue;
        }
        if indent < item {
            item = 0;
        }
        if indent >= item + 4 {
            continue; // an indented code block: its text is no fence
        }
        let mark = rest.as_bytes()[0];
        let (run, info) = run_of(rest, mark);
        let fence_like = (mark == b'`' && !info.contains('`')) || mark == b'~';
        if run >= 3 && fence_like {
            let lang = info.split_whitespace().next().map(str::to_owned);
            open = Some(Fence { mark, len: run, indent, lang, text: String::new() });
        } else if let Some(marker) = list_marker(rest) {
            item = indent + marker;
        }
    }
    if let Some(fence) = open {
        found.push((fence.lang, fence.text));
    }
    found
}

/// How often `mark` stands at the start of `text`, and what follows.
fn run_of(text: &str, mark: u8) -> (usize, &str) {
    let run = text.bytes().take_while(|b| *b == mark).count();
    // ASCII marks only: a multi-byte character never equals one, so the cut is at a character boundary.
    if mark.is_ascii() { (run, &text[run..]) } else { (0, text) }
}

/// Width of a list marker and the spaces after it (`- `, `12. `).
fn list_marker(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let sign = text.as_bytes().get(digits)?;
    let marker = match (digits, sign) {
        (0, b'-' | b'*' | b'+') => 1,
        (1..=9, b'.' | b')') => digits + 1,
        _ => return None,
    };
    let spaces = text[marker..].bytes().take_while(|b| *b == b' ').count();
    (1..=4).contains(&spaces).then_some(marker + spaces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(markdown: &str) -> Vec<(Option<&'static str>, String)> {
        blocks(markdown).into_iter().map(|(l, t)| (l.map(|l| &*l.leak()), t)).collect()
    }

    #[test]
    fn blocks_keep_language_and_text_exactly() {
        let md = "Here:\n\n```python\ndef f():\n    return 1\n\n```\n\nthen\n\n~~~json\n{\"fence\": \"```not a fence```\"}\n~~~\n\n```\nplain\n```\n";
        assert_eq!(
            texts(md),
            [
                (Some("python"), "def f():\n    return 1\n\n".to_owned()),
                (Some("json"), "{\"fence\": \"```not a fence```\"}\n".to_owned()),
                (None, "plain\n".to_owned()),
            ]
        );
    }

    #[test]
    fn a_block_in_a_list_item_loses_the_items_indentation() {
        let md = "1. The program:\n\n   ```rust\n   fn main() {\n       go();\n   }\n   ```\n\n2. Done\n";
        assert_eq!(texts(md), [(Some("rust"), "fn main() {\n    go();\n}\n".to_owned())]);
    }

    #[test]
    fn longer_fences_hold_shorter_ones_and_an_open_one_runs_to_the_end() {
        assert_eq!(texts("````md\n```\nx\n```\n````\n"), [(Some("md"), "```\nx\n```\n".to_owned())]);
        assert_eq!(texts("```sh\nls"), [(Some("sh"), "ls\n".to_owned())]);
        assert_eq!(texts("    ```\n    not a fence\n"), []);
        assert_eq!(texts("use `x` and ```inline``` here\né"), []);
    }
}
