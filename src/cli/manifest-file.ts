/**
 * Manifest text to JSON values. In: YAML or JSON text. Out: one value per document, or invalidArgument `file: line n, column m: cause`. Pure.
 *
 * Kubernetes reads YAML 1.1, where `0644` is octal and `yes` is true; so does this. Of 1.1 the rarely wanted types are left out, as
 * the Kubernetes tools leave them out: `12:30` is a text and no number in base 60, `2024-01-02` is no date.
 */
import { type CollectionTag, LineCounter, type ScalarTag, parseAllDocuments } from 'yaml';
import { RuntimeError, limits } from '#core';

const unwantedTags = new Set(['tag:yaml.org,2002:timestamp', 'tag:yaml.org,2002:binary', 'tag:yaml.org,2002:omap', 'tag:yaml.org,2002:pairs', 'tag:yaml.org,2002:set']);

function isWanted(tag: string | ScalarTag | CollectionTag): boolean {
  if (typeof tag === 'string') return true;
  return !unwantedTags.has(tag.tag) && !('format' in tag && tag.format === 'TIME');
}

/** The documents of the text. `name` is for messages. Aliases are followed at most 100 times (YAML bombs). */
export function parseManifestText(text: string, name: string): unknown[] {
  if (Buffer.byteLength(text) > limits.manifestDocumentBytesMax) throw new RuntimeError('resourceExhausted', `read ${name}: larger than ${limits.manifestDocumentBytesMax} bytes`);
  const lineCounter = new LineCounter();
  const documents = parseAllDocuments(text, { version: '1.1', lineCounter, prettyErrors: false, customTags: (tags) => tags.filter(isWanted) });
  return [...documents].map((document) => {
    const [error] = document.errors;
    if (error !== undefined) {
      const { line, col } = lineCounter.linePos(error.pos[0]);
      // The parser recurses, and says so in the words of the machine.
      const cause = error.message.includes('call stack') ? 'nested too deeply' : error.message;
      throw new RuntimeError('invalidArgument', `read ${name}: line ${line}, column ${col}: ${cause}`, { cause: error });
    }
    try {
      const value: unknown = document.toJS({ maxAliasCount: 100 });
      return value;
    } catch (cause) {
      throw new RuntimeError('invalidArgument', `read ${name}: ${cause instanceof Error ? cause.message : 'unreadable'}`, { cause });
    }
  });
}
