/**
 * The walls between folders and the house rules that can be checked by reading the files.
 * In: the checkout. Out: one failure per rule, with every place that breaks it. Changing a table here is a visible decision.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { readFacts } from './facts.ts';
import { blank, lineAt, listImports } from './style/scan.ts';

const home = fileURLToPath(new URL('..', import.meta.url));

/** Who may import whom. `types` may be imported by `import type` only. Everything may import its own folder. */
const importTable: Readonly<Record<string, { readonly values: readonly string[]; readonly types?: readonly string[] }>> = {
  core: { values: [] },
  oci: { values: ['core'] },
  plan: { values: ['core'] },
  streaming: { values: ['core'] },
  gen: { values: [] },
  system: { values: ['core', 'plan'] },
  runtime: { values: ['core', 'oci', 'plan', 'system'] },
  image: { values: ['core', 'oci', 'plan', 'system'] },
  network: { values: ['core', 'plan', 'system'] },
  sandbox: { values: ['core', 'oci', 'plan', 'system', 'runtime'], types: ['pod'] },
  pod: { values: ['core', 'oci'], types: ['image', 'network', 'sandbox'] },
  podrun: { values: ['core', 'oci'], types: ['pod', 'image'] },
  cri: { values: ['core', 'gen', 'streaming'], types: ['pod', 'image'] },
  // The engine's own socket: its server and its client, so that a second process sees the same pods.
  remote: { values: ['core', 'streaming'], types: ['pod'] },
  // The command line of the OCI runtime: a door to `runtime` alone, see docs/decisions.
  ociruntime: { values: ['core', 'oci', 'plan', 'system', 'runtime'] },
  // Running a manifest is work of its own that the command line hands over, see docs/decisions.
  cli: { values: ['core', 'oci', 'plan', 'podrun'], types: ['pod', 'image'] },
  bin: { values: ['core', 'oci', 'plan', 'streaming', 'system', 'runtime', 'image', 'network', 'sandbox', 'pod', 'podrun', 'cri', 'remote', 'ociruntime', 'cli'] },
};

/** Which folder may use which dependency; everything else is Node's own. */
const packageTable: Readonly<Record<string, readonly string[]>> = {
  '@bufbuild/protobuf': ['gen', 'cri'],
  '@grpc/grpc-js': ['cri'],
  commander: ['cli', 'ociruntime'],
  yaml: ['podrun', 'cli'],
  'smol-toml': ['image', 'bin', 'cli', 'config'],
  ws: ['streaming'],
  pino: ['bin'],
};

/** Modules that touch the host. They are allowed in system/, bin/, in files named *.io.ts, and for their types. */
const hostModules =
  /^node:(fs|fs\/promises|net|http|https|http2|tls|dgram|dns|dns\/promises|child_process|worker_threads|cluster|sqlite|timers|timers\/promises|readline|readline\/promises|repl|inspector|process)$/;

/** The clock, timers, randomness, the network and the environment by their global names. A deadline (AbortSignal.timeout) is a bound, not a reading. */
const hostGlobals = [/\bDate\.now\(/, /\bnew Date\(\)/, /\bperformance\.now\(/, /\bMath\.random\(/, /(?<![.\w#])set(Timeout|Interval|Immediate)\(/, /(?<![.\w#])fetch\(/];
const processGlobals = /(?<![.\w#])process\.(env|argv|pid|cwd|exit|stdin|stdout|stderr|hrtime|kill|on)\b/;
/** An OCI document has a `process` too: where the name is bound in the file it is not Node's. */
const bindsProcess = /\b(const|let)\s+(\{[^}]*\bprocess\b[^}]*\}|process\b)|[({,]\s*process\s*[:,)}]/;

/** Longer than 400 lines, each with the reason one would say aloud. */
const longFiles: Readonly<Record<string, string>> = {
  'native/steps.gen.h': 'generated',
  'tests/integration/remote.test.ts': 'one fake engine serves every case of the socket',
  'src/plan/vocabulary.ts': 'one table of every step, which belongs together',
  'tests/integration/shim.test.ts': 'one suite over one launcher and its pods; its parts share every fixture',
};
const linesMax = 400;

function listFiles(folder: string, pattern: RegExp): string[] {
  if (!existsSync(join(home, folder))) return [];
  return readdirSync(join(home, folder), { recursive: true, encoding: 'utf8' })
    .map((path) => join(folder, path))
    .filter((path) => pattern.test(path) && !/(^|\/)(node_modules|dist|build|\.git)\//.test(path) && statSync(join(home, path)).isFile())
    .sort();
}

const read = (path: string): string => readFileSync(join(home, path), 'utf8');
const codeByPath = new Map<string, string>();
/** The file with comments and the contents of strings blanked. */
function readCode(path: string): string {
  const code = codeByPath.get(path) ?? blank(read(path), { strings: true });
  codeByPath.set(path, code);
  return code;
}
const isTest = (path: string): boolean => path.endsWith('.test.ts') || /\/(testing|testdata)\//.test(path);
const mayTouchHost = (path: string): boolean => /^src\/(system|bin)\//.test(path) || path.endsWith('.io.ts') || isTest(path);
const isGenerated = (path: string): boolean => path.startsWith('src/gen/');

const sources = listFiles('src', /\.ts$/).filter((path) => !isGenerated(path));
const otherCode = [...listFiles('tests', /\.ts$/), ...listFiles('scripts', /\.ts$/), ...listFiles('bench', /\.ts$/)];
const nativeCode = listFiles('native', /\.[ch]$/);

/** Fails with all places at once, one a line. */
function expectNone(places: readonly string[], rule: string): void {
  assert.equal(places.length, 0, `${rule}:\n${places.map((place) => `  ${place}`).join('\n')}\n`);
}

/** Lines of blanked code that match; `path:line: text`. */
function findInCode(path: string, pattern: RegExp): string[] {
  const lines = read(path).split('\n');
  return readCode(path)
    .split('\n')
    .flatMap((line, index) => (pattern.test(line) ? [`${path}:${index + 1}: ${(lines[index] ?? '').trim().slice(0, 120)}`] : []));
}

const folderOf = (path: string): string => path.split('/')[1] ?? '';

/** The reason why an import is not allowed, or undefined. */
function refuseImport(path: string, { specifier, isType }: { readonly specifier: string; readonly isType: boolean }): string | undefined {
  const folder = folderOf(path);
  if (specifier.startsWith('node:')) {
    if (isType || mayTouchHost(path) || !hostModules.test(specifier)) return undefined;
    return `${specifier} touches the host; only system/, bin/ and *.io.ts may`;
  }
  if (specifier.startsWith('.')) {
    const target = relative(home, join(home, dirname(path), specifier));
    if (target.startsWith(`src/${folder}/`) || (isTest(path) && target.startsWith('tests/'))) return undefined;
    return `${specifier} leaves the folder; cross it by #${target.split('/')[1]}`;
  }
  if (specifier.startsWith('#')) {
    const target = specifier.slice(1).split('/')[0] ?? '';
    if (target === folder) return undefined;
    if (specifier.includes('/') && target !== 'gen') return `${specifier} goes past the one door of ${target}`;
    const allowed = importTable[folder];
    if (allowed === undefined) return `${folder} is not in the import table`;
    if (allowed.values.includes(target) || (isType && allowed.types?.includes(target) === true)) return undefined;
    return allowed.types?.includes(target) === true ? `${specifier} is for types only: import type` : `${folder} may not import ${target}`;
  }
  const packageName = specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');
  const folders = packageTable[packageName];
  if (folders === undefined) return `${packageName} is not in the package table`;
  return folders.includes(folder) ? undefined : `${packageName} is for ${folders.join(' and ')}`;
}

describe('walls', () => {
  test('every folder of src is in the import table', () => {
    const folders = readdirSync(join(home, 'src'), { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
    expectNone(
      folders.filter((folder) => !Object.hasOwn(importTable, folder)),
      'folders without a row',
    );
  });

  test('the import table has no circle among values', () => {
    const circles: string[] = [];
    const visit = (folder: string, way: readonly string[]): void => {
      if (way.includes(folder)) circles.push([...way, folder].join(' → '));
      else for (const next of importTable[folder]?.values ?? []) visit(next, [...way, folder]);
    };
    for (const folder of Object.keys(importTable)) visit(folder, []);
    expectNone(circles, 'circles');
  });

  test('imports keep to the table, cross folders by their one door, and leave the host to those that may touch it', () => {
    const places = sources.flatMap((path) =>
      listImports(read(path)).flatMap((found) => {
        const reason = refuseImport(path, found);
        return reason === undefined ? [] : [`${path}:${found.line}: ${reason}`];
      }),
    );
    expectNone(places, 'imports that are not allowed');
  });

  test('node:os and node:crypto are used for what is pure in them', () => {
    const places = sources
      .filter((path) => !mayTouchHost(path))
      .flatMap((path) => {
        const code = blank(read(path), { strings: false });
        const os = /^import (?!type)(?!\{\s*constants( as \w+)?\s*\})[^;]*from 'node:os'/m.exec(code);
        const crypto = /^import (?!type)[^;]*\b(random\w+|webcrypto|generateKey\w*)\b[^;]*from 'node:crypto'/m.exec(code);
        return [os, crypto].flatMap((match) => (match === null ? [] : [`${path}:${lineAt(code, match.index)}: ${match[0]}`]));
      });
    expectNone(places, 'only constants of node:os, no randomness of node:crypto, outside system/, bin/ and *.io.ts');
  });

  test('the clock, randomness, timers and the environment are used only where the host may be touched', () => {
    const places = sources
      .filter((path) => !mayTouchHost(path))
      .flatMap((path) => [...hostGlobals, ...(bindsProcess.test(readCode(path)) ? [] : [processGlobals])].flatMap((pattern) => findInCode(path, pattern)));
    expectNone(places, 'globals that touch the host');
  });
});

describe('house rules', () => {
  test('only erasable TypeScript, no default exports', () => {
    const pattern =
      /^\s*export default\b|^\s*(export )?(declare )?(const )?enum \w|^\s*(export )?(declare )?namespace \w|constructor\((?:[^{)]*,\s*)?(?:private|public|protected|readonly)\s/;
    expectNone(
      [...sources, ...otherCode].flatMap((path) => findInCode(path, pattern)),
      'default exports, enums, namespaces, parameter properties',
    );
  });

  test('every file begins with a comment that says what it is for', () => {
    const places = [...sources, ...otherCode, ...nativeCode].filter((path) => !/^(#![^\n]*\n)?\/\*/.test(read(path)));
    expectNone(places, 'files without a header comment');
  });

  test('every exported declaration has a doc comment', () => {
    const places = sources
      .filter((path) => !isTest(path))
      .flatMap((path) => {
        const lines = read(path).split('\n');
        return lines.flatMap((line, index) => {
          const name = /^export (?:declare )?(?:abstract )?(?:async )?(?:function\*?|const|class|interface|type|let) (\w+)/.exec(line)?.[1];
          if (name === undefined) return [];
          // A comment stands for the exports that follow it without a blank line, such as a table of constants and its type.
          let first = index;
          while (first > 0 && /^(export (const|type|let) .*[;,]$|\} as const;)$/.test(lines[first - 1] ?? '')) first -= 1;
          const above = (lines[first - 1] ?? '').trim();
          const isOverload = new RegExp(`^export (async )?function ${name}\\b.*;$`).test(above);
          return above.endsWith('*/') || isOverload ? [] : [`${path}:${index + 1}: ${name}`];
        });
      });
    expectNone(places, 'exports without a doc comment');
  });

  test('every cast and every non-null assertion has a SAFETY comment above it', () => {
    const places = sources
      .filter((path) => !isTest(path))
      .flatMap((path) => {
        const source = read(path);
        const lines = source.split('\n');
        const code = readCode(path).replaceAll(/^(import|export)\b[^;=()]*?(from\s*'[^']*'|\})\s*;/gm, (text) => text.replaceAll(/[^\n]/g, ' '));
        return code.split('\n').flatMap((line, index) => {
          const isCast = /\bas (?!const\b)[\w{[(#'"]/.test(line.replaceAll(/\bin [^\]:]+? as /g, '')) || /[\w)\]]!(?=[.[;,)\]\s}]|$)(?!=)/.test(line);
          const isExplained = lines.slice(Math.max(0, index - 8), index + 1).some((near) => near.includes('SAFETY:'));
          return isCast && !isExplained ? [`${path}:${index + 1}: ${(lines[index] ?? '').trim().slice(0, 120)}`] : [];
        });
      });
    expectNone(places, 'casts without SAFETY');
  });

  test(`no file is longer than ${linesMax} lines without a reason`, () => {
    const places = [...sources, ...otherCode, ...nativeCode].flatMap((path) => {
      const lines = read(path).trimEnd().split('\n').length;
      return lines > linesMax && !Object.hasOwn(longFiles, path) ? [`${path}: ${lines} lines`] : [];
    });
    const short = Object.keys(longFiles).filter((path) => !existsSync(join(home, path)) || read(path).trimEnd().split('\n').length <= linesMax);
    expectNone([...places, ...short.map((path) => `${path}: is in the list, but not that long`)], 'long files');
  });

  test('no file holds a path of somebody’s machine or an unfinished place', () => {
    const files = [
      ...['src', 'tests', 'scripts', 'bench', 'native', 'docs', 'examples', 'bin', '.ci'].flatMap((folder) => listFiles(folder, /./)),
      ...readdirSync(home).filter((name) => /\.(md|json)$|^\.\w+rc/.test(name) && statSync(join(home, name)).isFile()),
    ].filter((path) => !/\.(gz|zst|tar|bin|png)$|^tests\/style\.test\.ts$|^package-lock\.json$|^src\/gen\//.test(path));
    const patterns = [/\/(home|Users)\/[a-z]\w*\//, new RegExp(`${home.replaceAll(/[.+]/g, String.raw`\$&`)}\\b`), /\b(TODO|FIXME|XXX)\b(?!.*#\d)/];
    const places = files.flatMap((path) =>
      read(path)
        .split('\n')
        .flatMap((line, index) => (patterns.some((pattern) => pattern.test(line)) ? [`${path}:${index + 1}: ${line.trim().slice(0, 120)}`] : [])),
    );
    expectNone(places, 'machine paths and unfinished places');
  });

  test('test names are sentences, not labels', () => {
    const places = [...sources, ...otherCode]
      .filter((path) => path.endsWith('.test.ts'))
      .flatMap((path) => {
        const source = read(path);
        return [...source.matchAll(/^\s*(?:test|it)\((['"`])(.+?)\1/gm)].flatMap((match) =>
          (match[2] ?? '').trim().includes(' ') ? [] : [`${path}:${lineAt(source, match.index)}: ${match[2]}`],
        );
      });
    expectNone(places, 'one-word test names');
  });
});

describe('project', () => {
  test('the documents that everyone looks for exist', () => {
    const names = ['README.md', 'LICENSE', 'CONTRIBUTING.md', 'SECURITY.md', 'GLOSSARY.md', 'CHANGELOG.md', 'ARCHITECTURE.md', 'docs/dependencies.md'];
    expectNone(
      names.filter((name) => !existsSync(join(home, name))),
      'missing documents',
    );
  });

  test('links between documents lead somewhere', () => {
    const documents = [...readdirSync(home).filter((name) => name.endsWith('.md')), ...listFiles('docs', /\.md$/)];
    const places = documents.flatMap((path) =>
      [...read(path).matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)/g)].flatMap((match) => (existsSync(join(home, dirname(path), match[1] ?? '')) ? [] : [`${path}: ${match[1]}`])),
    );
    expectNone(places, 'links to nothing');
  });

  test('every dependency has its reason in docs/dependencies.md, and every reason its dependency', () => {
    const manifest: unknown = JSON.parse(read('package.json'));
    assert(typeof manifest === 'object' && manifest !== null && 'dependencies' in manifest && 'devDependencies' in manifest);
    const used = [...Object.keys(manifest.dependencies ?? {}), ...Object.keys(manifest.devDependencies ?? {})];
    const explained = [...read('docs/dependencies.md').matchAll(/^\| `([^`]+)` \|/gm)].map((match) => match[1]);
    assert.deepEqual(new Set(explained), new Set(used));
    assert.equal(explained.length, used.length);
  });

  test('every expected skip names a file, a test, a known fact and a reason', () => {
    const facts = Object.keys(readFacts());
    const entries: unknown = JSON.parse(read('tests/expected-skips.json'));
    assert(Array.isArray(entries));
    for (const entry of entries as readonly Record<string, unknown>[]) {
      assert.deepEqual(Object.keys(entry).sort(), ['file', 'reason', 'test', 'when']);
      assert(typeof entry['file'] === 'string' && existsSync(join(home, entry['file'])), `${String(entry['file'])}: does not exist`);
      assert(typeof entry['test'] === 'string' && entry['test'] !== '');
      assert(typeof entry['when'] === 'string' && facts.includes(entry['when']), `${String(entry['when'])}: is no fact of tests/facts.ts`);
      assert(typeof entry['reason'] === 'string' && entry['reason'].length > 10);
    }
  });
});

describe('the scanner itself', () => {
  test('comments, strings, templates and regular expressions are told apart', () => {
    const source = "a('x // y'); // as b\n/* as c */ d = /as \\/ [/] e/; `as ${f as g} as h`; i = j / k / l;";
    assert.equal(blank(source, { strings: true }).replaceAll(/ +/g, ' '), "a(' '); \n d = / /; ` ${f as g} `; i = j / k / l;");
  });

  test('imports are found with their kind and line', () => {
    const source =
      "import { a } from '#core';\nimport type {\n  b,\n} from '#pod';\nexport * from './c.ts';\nexport const d = 'from x';\nconst e = await import('#cri');\nimport { type f } from '#cli';\n// import g from 'h'\n";
    assert.deepEqual(
      listImports(source).map(({ line, specifier, isType }) => [line, specifier, isType]),
      [
        [1, '#core', false],
        [2, '#pod', true],
        [5, './c.ts', false],
        [8, '#cli', false],
        [7, '#cri', false],
      ],
    );
  });

  test('a wrong import is refused with the reason', () => {
    const refuse = (path: string, specifier: string, isType = false): string | undefined => refuseImport(path, { specifier, isType });
    assert.equal(refuse('src/plan/a.ts', '#pod'), 'plan may not import pod');
    assert.equal(refuse('src/cri/a.ts', '#pod'), '#pod is for types only: import type');
    assert.equal(refuse('src/cri/a.ts', '#pod', true), undefined);
    assert.equal(refuse('src/pod/a.ts', '../core/errors.ts'), '../core/errors.ts leaves the folder; cross it by #core');
    assert.equal(refuse('src/pod/a.ts', '#core/errors'), '#core/errors goes past the one door of core');
    assert.equal(refuse('src/pod/a.ts', 'node:fs'), 'node:fs touches the host; only system/, bin/ and *.io.ts may');
    assert.equal(refuse('src/pod/a.io.ts', 'node:fs'), undefined);
    assert.equal(refuse('src/pod/a.ts', 'yaml'), 'yaml is for podrun and cli');
    assert.equal(refuse('src/pod/a.ts', 'leftpad'), 'leftpad is not in the package table');
  });
});
