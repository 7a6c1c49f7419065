/**
 * The template that becomes a CNI configuration once the node's pod addresses are known. In: its text, the addresses. Out: JSON text. Pure.
 *
 * The form is that of Go's text/template as far as CNI templates use it: `{{.PodCIDR}}`, `{{range $i, $r := .PodCIDRRanges}} … {{$r}} …
 * {{end}}`, the same for `.Routes`, `{{if $i}} … {{end}}` for what comes between, and `{{-` or `-}}` to drop blanks. Nothing is ever executed.
 */
import { RuntimeError, invalidArgument, limits } from '#core';
import { isIpAddress } from './cni-result.ts';

/** What a template may name. */
export interface CniTemplateValues {
  readonly podCidr: string;
  readonly podCidrRanges: readonly string[];
  /** Default routes of the families that the pods have. */
  readonly routes: readonly string[];
}

/** Families, and so ranges, that a node can have. */
const rangesMax = 2;

/** `10.1.0.0/24,fd00::/64` as ranges. Empty text: none. Throws invalidArgument with the field's name. */
export function decodePodCidrs(text: string): string[] {
  if (text === '') return [];
  const field = 'runtimeConfig.networkConfig.podCidr';
  const ranges = text.split(',').map((range) => range.trim());
  if (ranges.length > rangesMax) throw invalidArgument(field, `${ranges.length} ranges, at most ${rangesMax}`);
  for (const range of ranges) {
    const [address = '', bits = '', ...rest] = range.split('/');
    if (!isIpAddress(address) || !/^\d{1,3}$/.test(bits) || Number(bits) > (address.includes(':') ? 128 : 32) || rest.length > 0)
      throw invalidArgument(field, `${JSON.stringify(range.slice(0, 80))} is no range of addresses, such as 10.1.0.0/24`);
  }
  return ranges;
}

/** What a template is filled with for these ranges. */
export function templateValuesOf(podCidrs: readonly string[]): CniTemplateValues {
  const hasFamily = (isIpv6: boolean): boolean => podCidrs.some((range) => range.includes(':') === isIpv6);
  return { podCidr: podCidrs[0] ?? '', podCidrRanges: podCidrs, routes: [...(hasFamily(false) ? ['0.0.0.0/0'] : []), ...(hasFamily(true) ? ['::/0'] : [])] };
}

type Piece = { readonly kind: 'text' | 'action'; readonly text: string };

function splitTemplate(template: string): Piece[] {
  const pieces: Piece[] = [];
  let at = 0;
  let isTrimmed = false;
  for (const match of template.matchAll(/\{\{(-(?=\s))?([^{}]*?)((?<=\s)-)?\}\}/g)) {
    const before = template.slice(at, match.index);
    const text = match[1] === undefined ? before : before.trimEnd();
    pieces.push({ kind: 'text', text: isTrimmed ? text.trimStart() : text }, { kind: 'action', text: (match[2] ?? '').trim() });
    isTrimmed = match[3] !== undefined;
    at = match.index + match[0].length;
  }
  const rest = template.slice(at);
  pieces.push({ kind: 'text', text: isTrimmed ? rest.trimStart() : rest });
  const stray = pieces.find(({ kind, text }) => kind === 'text' && text.includes('{{'));
  if (stray !== undefined) throw invalidArgument('template', 'has a "{{" without its "}}"');
  return pieces;
}

type Scope = ReadonlyMap<string, string | number>;

/** One rendering; `at` moves over the pieces. */
class Renderer {
  readonly #pieces: readonly Piece[];
  readonly #values: CniTemplateValues;
  #at = 0;
  #size = 0;

  constructor(pieces: readonly Piece[], values: CniTemplateValues) {
    this.#pieces = pieces;
    this.#values = values;
  }

  render(): string {
    const text = this.#block(new Map(), { depth: 0, isWanted: true });
    if (this.#at < this.#pieces.length) throw invalidArgument('template', 'has an "end" that ends nothing');
    return text;
  }

  /** Up to the block's `end`, or the end of the template at depth 0. What is not wanted is read over. */
  #block(scope: Scope, { depth, isWanted }: { readonly depth: number; readonly isWanted: boolean }): string {
    let out = '';
    for (;;) {
      const piece = this.#pieces[this.#at];
      if (piece === undefined) {
        if (depth > 0) throw invalidArgument('template', 'has a "range" or an "if" without its "end"');
        return out;
      }
      if (piece.kind === 'action' && piece.text === 'end') {
        if (depth > 0) this.#at += 1;
        return out;
      }
      this.#at += 1;
      out += piece.kind === 'text' ? this.#counted(piece.text) : this.#action(piece.text, scope, { depth, isWanted });
    }
  }

  #counted(text: string): string {
    this.#size += text.length;
    if (this.#size > limits.cniConfigBytesMax) throw new RuntimeError('resourceExhausted', `fill the template: more than ${limits.cniConfigBytesMax} characters`);
    return text;
  }

  #action(text: string, scope: Scope, { depth, isWanted }: { readonly depth: number; readonly isWanted: boolean }): string {
    const range = /^range (?:(?:\$(\w+)\s*,\s*)?\$(\w+)\s*:=\s*)?\.(PodCIDRRanges|Routes)$/.exec(text);
    if (range !== null) return this.#range(range, scope, { depth, isWanted });
    const condition = /^if \$(\w+)$/.exec(text)?.[1];
    if (condition !== undefined) {
      const value = this.#lookUp(condition, scope);
      const isTrue = isWanted && value !== 0 && value !== '';
      const inner = this.#block(scope, { depth: depth + 1, isWanted: isTrue });
      return isTrue ? inner : '';
    }
    if (text === '.PodCIDR') return isWanted ? this.#counted(this.#values.podCidr) : '';
    const name = /^\$(\w+)$/.exec(text)?.[1] ?? (text === '.' ? '.' : undefined);
    if (name === undefined) throw invalidArgument('template', `{{${text.slice(0, 60)}}} is not understood; see docs/networks.md for what is`);
    return this.#counted(String(this.#lookUp(name, scope)));
  }

  #lookUp(name: string, scope: Scope): string | number {
    const value = scope.get(name);
    if (value === undefined) throw invalidArgument('template', `${name === '.' ? '{{.}}' : `$${name.slice(0, 40)}`} stands for nothing here`);
    return value;
  }

  #range(match: RegExpExecArray, scope: Scope, { depth, isWanted }: { readonly depth: number; readonly isWanted: boolean }): string {
    const [, index, element, list] = match;
    const values = !isWanted ? [] : list === 'Routes' ? this.#values.routes : this.#values.podCidrRanges;
    const begin = this.#at;
    const bind = (value: string, at: number): Scope =>
      new Map([...scope, ['.', value], ...(index === undefined ? [] : [[index, at] as const]), ...(element === undefined ? [] : [[element, value] as const])]);
    if (values.length === 0) {
      this.#block(bind('', 0), { depth: depth + 1, isWanted: false });
      return '';
    }
    return values
      .map((value, at) => {
        this.#at = begin;
        return this.#block(bind(value, at), { depth: depth + 1, isWanted: true });
      })
      .join('');
  }
}

/** The template filled in. Throws invalidArgument for a form that is not understood and for an outcome that is no JSON. */
export function fillCniTemplate(template: string, values: CniTemplateValues): string {
  const text = new Renderer(splitTemplate(template), values).render();
  try {
    JSON.parse(text);
  } catch (error) {
    throw new RuntimeError('invalidArgument', 'template: what comes of it is not JSON', { cause: error });
  }
  return text;
}
