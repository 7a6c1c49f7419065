/**
 * Reads TypeScript just far enough for rules about text: comments and the insides of strings are told apart from code.
 * In: source text. Out: the same text with comments or strings blanked, line by line as before, and the imports. No I/O.
 */

/** One import or re-export. `specifier` is what stands between the quotes. */
export interface Import {
  readonly line: number;
  readonly specifier: string;
  /** `import type` and `export type`; an inline `type` still loads the module. */
  readonly isType: boolean;
}

/** Where the text is: in code, in a quoted string, a comment, a regular expression, or a template's text. */
type State = 'code' | 'line' | 'block' | "'" | '"' | '`' | 'regex';

/** A slash begins a regular expression where a value may begin. */
function mayBeginValue(before: string): boolean {
  const text = before.trimEnd();
  return text === '' || /[=(,:[!&|?{};+\-*%<>~^]$/.test(text) || /\b(return|typeof|case|in|of|await|yield|throw|void)$/.test(text);
}

const spaces = (text: string): string => text.replaceAll(/[^\n]/g, ' ');

/**
 * Blanks comments, and with `strings` the contents of strings, templates and regular expressions too; their quotes stay.
 * Expressions inside templates stay as code.
 */
export function blank(source: string, { strings }: { readonly strings: boolean }): string {
  let out = '';
  let state: State = 'code';
  let inClass = false; // inside [...] of a regular expression a slash does not end it
  const braces: number[] = []; // depth of braces per open template expression
  const push = (text: string, keep: boolean): void => void (out += keep ? text : spaces(text));
  for (let at = 0; at < source.length; at += 1) {
    const char = source[at] ?? '';
    const two = source.slice(at, at + 2);
    if (state === 'code') {
      if (two === '//' || two === '/*') {
        state = two === '//' ? 'line' : 'block';
        push(two, false);
        at += 1;
      } else if (char === "'" || char === '"' || char === '`') {
        state = char;
        push(char, true);
      } else if (char === '/' && mayBeginValue(out.slice(-80))) {
        state = 'regex';
        inClass = false;
        push(char, true);
      } else {
        const open = braces.length - 1;
        if (open >= 0 && char === '{') braces[open] = (braces[open] ?? 0) + 1;
        if (open >= 0 && char === '}') {
          if (braces[open] === 0) {
            braces.pop();
            state = '`';
          } else braces[open] = (braces[open] ?? 0) - 1;
        }
        push(char, true);
      }
    } else if (state === 'line') {
      if (char === '\n') state = 'code';
      push(char, false);
    } else if (state === 'block') {
      push(char, false);
      if (two === '*/') {
        push('/', false);
        at += 1;
        state = 'code';
      }
    } else if (char === '\\') {
      push(two, !strings);
      at += 1;
    } else if (state === '`' && two === '${') {
      push(two, true);
      at += 1;
      braces.push(0);
      state = 'code';
    } else if (state === 'regex') {
      if (char === '[') inClass = true;
      if (char === ']') inClass = false;
      const ends = (char === '/' && !inClass) || char === '\n';
      push(char, ends || !strings);
      if (ends) state = 'code';
    } else {
      const ends = char === state;
      push(char, ends || !strings);
      if (ends) state = 'code';
    }
  }
  return out;
}

/** Number of the line (from 1) at an offset. */
export function lineAt(source: string, offset: number): number {
  return source.slice(0, offset).split('\n').length;
}

/** Every static import, re-export and dynamic import of a file. */
export function listImports(source: string): Import[] {
  const code = blank(source, { strings: false });
  const found: Import[] = [];
  for (const match of code.matchAll(/^(?:import|export)\b(\s+type\b(?!\s*,|\s+from))?[^;'"`]*?(?:from\s*)?(['"])([^'"\n]+)\2/gm)) {
    if (!/^(import|export\b[^;]*\bfrom\s*['"])/.test(match[0])) continue;
    found.push({ line: lineAt(code, match.index), specifier: match[3] ?? '', isType: match[1] !== undefined });
  }
  for (const match of code.matchAll(/(typeof\s+)?\bimport\(\s*(['"])([^'"\n]+)\2\s*\)/g)) {
    found.push({ line: lineAt(code, match.index), specifier: match[3] ?? '', isType: match[1] !== undefined });
  }
  return found;
}
