/**
 * An interpreter of classic BPF as seccomp runs it: a program and one system call in, the answer out. It knows every instruction that
 * compilers of filters use; anything else, a jump out of the program or a missing return is an error. It also finds comparisons that a compiler has mixed up: those that look at
 * different words of a call, depending on the way to them. Source: linux/filter.h, seccomp(2).
 */
import assert from 'node:assert/strict';

/** What a filter sees: `struct seccomp_data`. */
export interface Call {
  /** AUDIT_ARCH_*. */
  readonly token: number;
  readonly number: number;
  readonly args: readonly bigint[];
}

/** What the accumulator holds: a word of the call, and the bits of it that are left. */
interface Loaded {
  readonly offset: number;
  readonly mask: number;
}

/** Runs one program over many calls; decoding is done once. */
export class Filter {
  readonly size: number;
  readonly #code: Uint16Array;
  readonly #onTrue: Uint8Array;
  readonly #onFalse: Uint8Array;
  readonly #value: Uint32Array;
  /** Values that the program compares with; what lies beside them is worth a try. */
  readonly constants: ReadonlySet<number>;

  /** `program` is an array of struct sock_filter, little-endian. */
  constructor(program: Uint8Array) {
    assert(program.length > 0 && program.length % 8 === 0, `a program of ${program.length} bytes`);
    const view = new DataView(program.buffer, program.byteOffset, program.byteLength);
    this.size = program.length / 8;
    this.#code = Uint16Array.from({ length: this.size }, (_, index) => view.getUint16(index * 8, true));
    this.#onTrue = Uint8Array.from({ length: this.size }, (_, index) => view.getUint8(index * 8 + 2));
    this.#onFalse = Uint8Array.from({ length: this.size }, (_, index) => view.getUint8(index * 8 + 3));
    this.#value = Uint32Array.from({ length: this.size }, (_, index) => view.getUint32(index * 8 + 4, true));
    this.constants = new Set([...this.#value].filter((_, index) => ((this.#code[index] ?? 0) & 7) === 5));
  }

  /**
   * By instruction: all that the accumulator may hold when a comparison is reached, where that is more than one thing. What a comparison is about does not depend on the way to it, so a
   * program without mistakes has none.
   */
  findMixedUp(): ReadonlyMap<number, readonly Loaded[]> {
    const reached: Map<string, Loaded>[] = Array.from({ length: this.size + 256 }, () => new Map());
    const mixedUp = new Map<number, readonly Loaded[]>();
    const put = (at: number, loaded: Loaded): unknown => reached[at]?.set(`${loaded.offset} ${loaded.mask}`, loaded);
    put(0, { offset: -1, mask: 0 });
    // Every jump goes forward, so one pass sees everything.
    for (let at = 0; at < this.size; at += 1) {
      const all = [...(reached[at]?.values() ?? [])];
      const [code, value] = [this.#code[at] ?? 0, this.#value[at] ?? 0];
      if ((code & 7) === 5 && code !== 0x05 && all.length > 1) mixedUp.set(at, all);
      for (const loaded of all) {
        if (code === 0x20) put(at + 1, { offset: value, mask: 0xffff_ffff });
        else if (code === 0x54) put(at + 1, { ...loaded, mask: (loaded.mask & value) >>> 0 });
        else if (code === 0x05) put(at + 1 + value, loaded);
        else if (code !== 0x06) for (const to of [this.#onTrue[at] ?? 0, this.#onFalse[at] ?? 0]) put(at + 1 + to, loaded);
      }
    }
    return mixedUp;
  }

  /** Every answer that a call can get if each mixed-up comparison that it meets looks at any of the words that it was made for; only the program's own one where it meets none. */
  runRepaired(call: Call, mixedUp: ReadonlyMap<number, readonly Loaded[]>): ReadonlySet<number> {
    const answers = new Set<number>();
    const from = (start: number, accumulator: number): void => {
      for (let at = start, held = accumulator; ; at += 1) {
        const [code, value] = [this.#code[at] ?? assert.fail('the program ran past its end'), this.#value[at] ?? 0];
        if (code === 0x06) {
          answers.add(value);
          return;
        }
        if (code === 0x20) held = word(value, call.token, call.number, call.args);
        else if (code === 0x54) held = (held & value) >>> 0;
        else if (code === 0x05) at += value;
        else {
          const choices = mixedUp.get(at)?.map(({ offset, mask }) => (word(offset, call.token, call.number, call.args) & mask) >>> 0);
          if (choices !== undefined) {
            for (const choice of new Set(choices)) from(at + 1 + this.#offsetOf(at, choice), choice);
            return;
          }
          at += this.#offsetOf(at, held);
        }
      }
    };
    from(0, 0);
    return answers;
  }

  /** How far a comparison jumps. */
  #offsetOf(at: number, accumulator: number): number {
    const [code, value] = [this.#code[at], this.#value[at] ?? 0];
    const holds = code === 0x15 ? accumulator === value : code === 0x25 ? accumulator > value : code === 0x35 ? accumulator >= value : (accumulator & value) !== 0;
    return (holds ? this.#onTrue[at] : this.#onFalse[at]) ?? 0;
  }

  /** The answer, SECCOMP_RET_* with its data. */
  run({ token, number, args }: Call): number {
    let accumulator = 0;
    for (let at = 0; at < this.size; at += 1) {
      const value = this.#value[at] ?? 0;
      let holds = true;
      switch (this.#code[at]) {
        case 0x20:
          accumulator = word(value, token, number, args);
          continue;
        case 0x54:
          accumulator = (accumulator & value) >>> 0;
          continue;
        case 0x05:
          at += value;
          continue;
        case 0x06:
          return value;
        case 0x15:
          holds = accumulator === value;
          break;
        case 0x25:
          holds = accumulator > value;
          break;
        case 0x35:
          holds = accumulator >= value;
          break;
        case 0x45:
          holds = (accumulator & value) !== 0;
          break;
        default:
          assert.fail(`instruction ${at}: unknown code ${this.#code[at]}`);
      }
      at += (holds ? this.#onTrue[at] : this.#onFalse[at]) ?? 0;
    }
    assert.fail('the program ran past its end');
  }
}

function word(offset: number, token: number, number: number, args: readonly bigint[]): number {
  if (offset === 0) return number >>> 0;
  if (offset === 4) return token >>> 0;
  assert(offset >= 16 && offset < 64 && offset % 4 === 0, `offset ${offset}`);
  const arg = args[(offset - 16) >> 3] ?? 0n;
  return Number(offset % 8 === 0 ? arg & 0xffff_ffffn : arg >> 32n);
}
