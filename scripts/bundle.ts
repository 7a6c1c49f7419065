/**
 * Makes dist/berth.mjs, one file that starts in a fraction of the time that stripped sources need, one file per worker, and the OCI runtime: dist/berth-oci, which is the helper
 * under that name, with its compiler berth-oci.mjs and berth-oci.body.js and the Node that runs it beside it. In: src/bin, the files that sources start by their place, native/build. Out: dist/.
 */
import { copyFileSync, lutimesSync, readFileSync, readdirSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type BuildOptions, type Plugin, build } from 'esbuild';

const home = fileURLToPath(new URL('..', import.meta.url));
process.chdir(home);
const mains = ['src/bin/berth.ts'];
/** The compiler of the OCI runtime, and what starts it. */
const compiler = { main: 'src/bin/berth-oci.ts', boot: 'src/bin/oci-boot.ts' } as const;
/** A TypeScript file that another names by its place is started as a worker or a process of its own. */
const namedByPlace = /new URL\((['"])([^'"]+)\.ts\1,\s*import\.meta\.url\)/g;
const workers = readdirSync('src', { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.ts') && !path.endsWith('.test.ts'))
  .flatMap((path) => [...readFileSync(join('src', path), 'utf8').matchAll(namedByPlace)].map((match) => join('src', dirname(path), `${match[2]}.ts`)))
  .filter((path, index, all) => all.indexOf(path) === index);

/** Stands for the bundle's own place while the modules' places are written in. */
const bundlePlace = '__BUNDLE_PLACE__';

/**
 * Modules find files beside themselves by `import.meta`. In the bundle that would be the bundle's place, so every module keeps
 * its own; only a worker is started from its bundled file. `import.meta.main` is true for the entry alone.
 */
const keepModulePlaces: Plugin = {
  name: 'keep module places',
  setup(context) {
    context.onLoad({ filter: /\.ts$/ }, ({ path }) => {
      const source = readFileSync(path, 'utf8');
      const place = JSON.stringify(`../${relative(home, path)}`);
      const isEntry = [...mains, ...workers, ...Object.values(compiler)].includes(relative(home, path));
      const contents = source
        .replaceAll(namedByPlace, (_, quote: string, file: string) => `new URL(${quote}./${basename(file)}.mjs${quote}, ${bundlePlace})`)
        .replaceAll('import.meta.url', `new URL(${place}, ${bundlePlace}).href`)
        .replaceAll('import.meta.filename', `new URL(${place}, ${bundlePlace}).pathname`)
        .replaceAll('import.meta.dirname', `new URL('.', new URL(${place}, ${bundlePlace})).pathname.slice(0, -1)`)
        .replaceAll('import.meta.main', isEntry ? 'import.meta.main' : 'false')
        .replaceAll(bundlePlace, 'import.meta.url');
      return { contents, loader: 'ts' };
    });
  },
};

const startedAt = new Date();
const scratch = join(home, 'dist', `.new-${process.pid}`);
const common: BuildOptions = { absWorkingDir: home, bundle: true, platform: 'node', target: 'node24', legalComments: 'none', logLevel: 'warning', plugins: [keepModulePlaces] };
await build({
  ...common,
  entryPoints: [...[...mains, ...workers].map((path) => ({ in: path, out: basename(path, '.ts') })), { in: compiler.boot, out: 'berth-oci' }],
  outdir: scratch,
  outExtension: { '.js': '.mjs' },
  format: 'esm',
  // CommonJS dependencies (the gRPC library) call require for Node's own modules.
  banner: { js: "import { createRequire as berthCreateRequire } from 'node:module'; const require = berthCreateRequire(import.meta.url);" },
});
// A function, so that src/bin/oci-boot.ts may keep its compiled code.
await build({
  ...common,
  entryPoints: [compiler.main],
  outfile: join(scratch, 'berth-oci.body.js'),
  format: 'cjs',
  define: { 'import.meta.url': 'berthPlace' },
  banner: { js: '(function (require, module, berthPlace) {' },
  footer: { js: '})' },
});
// The OCI runtime finds what it starts beside itself.
copyFileSync(join(home, 'native/build/berth-shim'), join(scratch, 'berth-oci'));
symlinkSync(relative(join(home, 'dist'), process.execPath), join(scratch, 'node'));
// Moved into place whole, so that a Berth that starts meanwhile sees the old bundle or the new one.
// It carries the time at which the sources were read: an edit made since then is newer.
for (const file of readdirSync(scratch)) {
  lutimesSync(join(scratch, file), startedAt, startedAt);
  renameSync(join(scratch, file), join(home, 'dist', file));
}
rmSync(scratch, { recursive: true });
// What was compiled for the old bundle would only pile up.
rmSync(join(home, 'dist', '.compile-cache'), { recursive: true, force: true });
