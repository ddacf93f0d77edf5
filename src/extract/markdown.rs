//! Fenced code blocks in markdown, as CommonMark has them.

/// Most blocks that one message yields; the rest is text (F27).
const MAX_BLOCKS: usize = 1000;

/// A fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// First word after the opening fence.
    pub(crate) lang: Option<String>,
    /// Its lines, each ended by a newline.
    pub(crate) text: String,
    /// The closing fence never came.
    pub(crate) truncated: bool,
}

struct Fence {
    mark: char,
    len: usize,
    indent: usize,
}

/// Returns the fenced code blocks of `text`, in order.
pub(crate) fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<(Fence, Block)> = None;
    for line in text.lines() {
        match &mut open {
            Some((fence, block)) => {
                if closes(line, fence) {
                    let (_, mut block) = open.take().expect("it was just matched");
                    block.truncated = false;
                    found.push(block);
                    if found.len() == MAX_BLOCKS {
                        return found;
                    }
                } else {
                    block.text.push_str(unindented(line, fence.indent));
                    block.text.push('\n');
                }
            }
            None => {
                open = opens(line).map(|(fence, lang)| (fence, Block { lang, text: String::new(), truncated: true }));
            }
        }
    }
    found.extend(open.map(|(_, block)| block));
    found
}

/// A fence may stand in a list or a quote, so its indent is free; its block's lines lose as much of theirs.
fn opens(line: &str) -> Option<(Fence, Option<String>)> {
    let body = line.trim_start_matches([' ', '\t']);
    let indent = line.len() - body.len();
    let mark = body.chars().next().filter(|c| *c == '`' || *c == '~')?;
    let len = body.chars().take_while(|c| *c == mark).count();
    let info = body[len..].trim();
    // A line of inline code begins with backticks too, and ends with some.
    if len < 3 || (mark == '`' && info.contains('`')) {
        return None;
    }
    let lang = info.split_whitespace().next().map(str::to_owned);
    Some((Fence { mark, len, indent }, lang))
}

fn closes(line: &str, fence: &Fence) -> bool {
    let body = line.trim();
    let indent = line.len() - line.trim_start().len();
    indent <= fence.indent + 3 && body.chars().count() >= fence.len && body.chars().all(|c| c == fence.mark)
}

fn unindented(line: &str, indent: usize) -> &str {
    let blanks = line.bytes().take(indent).take_while(|b| *b == b' ' || *b == b'\t').count();
    &line[blanks..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(md: &str) -> Vec<(Option<String>, String, bool)> {
        blocks(md).into_iter().map(|b| (b.lang, b.text, b.truncated)).collect()
    }

    #[test]
    fn languages_tildes_and_none() {
        let md = "a\n```rust ignore\nfn x() {}\n```\n~~~\n```\n~~~\n";
        assert_eq!(texts(md), [(Some("rust".into()), "fn x() {}\n".into(), false), (None, "```\n".into(), false)]);
    }

    #[test]
    fn a_longer_fence_holds_a_shorter_one() {
        assert_eq!(texts("````md\n```x\n```\n````"), [(Some("md".into()), "```x\n```\n".into(), false)]);
    }

    #[test]
    fn an_indented_fence_takes_its_indent_off_the_lines() {
        assert_eq!(texts("- x\n  ```\n  a\n    b\n c\n  ```"), [(None, "a\n  b\nc\n".into(), false)]);
    }

    #[test]
    fn f27_an_unclosed_fence_is_marked_and_inline_code_opens_none() {
        assert_eq!(texts("```sh\nls"), [(Some("sh".into()), "ls\n".into(), true)]);
        assert_eq!(texts("```x``` y\ntext"), []);
    }

    #[test]
    fn f27_a_hundred_thousand_blocks_are_bounded() {
        assert_eq!(blocks(&"```\n```\n".repeat(100_000)).len(), MAX_BLOCKS);
    }
}
