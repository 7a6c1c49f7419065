/**
 * Starts the compiler of the OCI runtime from code that an earlier command has compiled. In: berth-oci.body.js beside this file, the directory of compiled code in NODE_COMPILE_CACHE.
 * Out: the compiler, running; a file of compiled code where there was none. Node's own cache keeps what is compiled when a module is loaded; this keeps what ran, too,
 * which for commands of a few milliseconds is most of it.
 */
import { readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { Script } from 'node:vm';
import type { runCompiler } from './berth-oci.ts';

/** What the wrapper around the bundled program takes; see scripts/bundle.ts. */
type Body = (require: NodeJS.Require, module: { exports: { readonly runCompiler: typeof runCompiler } }, place: string) => void;

// The front starts this file by its absolute path.
const place = new URL('berth-oci.body.js', pathToFileURL(process.argv[1] ?? ''));
const { mtimeNs, size } = statSync(place, { bigint: true });
// V8 tells code of another source by the source's length alone, so the name tells the rest.
const codePath = `${process.env['NODE_COMPILE_CACHE'] ?? ''}/berth-oci-${mtimeNs}-${size}.code`;

/** Compiled code, and the commands that have run with it. On disk: their names in one line, then V8's bytes. */
interface Code {
  readonly commands: readonly string[];
  readonly data?: Buffer;
}

function readCode(): Code {
  try {
    const file = readFileSync(codePath);
    const end = file.indexOf('\n');
    return { commands: file.toString('latin1', 0, end).split(' '), data: file.subarray(end + 1) };
  } catch {
    return { commands: [] };
  }
}

const code = readCode();
// esbuild writes nothing but ASCII.
const script = new Script(readFileSync(place, 'latin1'), { filename: place.pathname, ...(code.data === undefined ? {} : { cachedData: code.data }) });

/** Adds what a command needed; once for each command. */
function storeCode(command: string): void {
  const commands = script.cachedDataRejected === true ? [] : code.commands;
  if (commands.includes(command)) return;
  try {
    writeFileSync(`${codePath}.${process.pid}`, Buffer.concat([Buffer.from(`${[...commands, command].join(' ')}\n`), script.createCachedData()]), { mode: 0o600 });
    renameSync(`${codePath}.${process.pid}`, codePath);
  } catch {
    // Where nothing can be stored, every command compiles for itself.
  }
}

// SAFETY: the value of the bundled program is the wrapper that scripts/bundle.ts puts around it, and it exports what src/bin/berth-oci.ts does.
const body = script.runInThisContext() as Body;
// SAFETY: the wrapper sets it before it returns.
const module = {} as Parameters<Body>[1];
body(createRequire(place), module, place.href);
await module.exports.runCompiler(storeCode);
