/**
 * An interpreter of classic BPF as seccomp runs it: a program and one system call in, the answer out. It knows every instruction that
 * compilers of filters use; anything else, a jump out of the program or a missing return is an error. Source: linux/filter.h, seccomp(2).
 */
import assert from 'node:assert/strict';

/** What a filter sees: `struct seccomp_data`. */
export interface Call {
  /** AUDIT_ARCH_*. */
  readonly token: number;
  readonly number: number;
  readonly args: readonly bigint[];
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
