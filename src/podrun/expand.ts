/**
 * `$(NAME)` in commands, arguments and environment values. Pure.
 * Source: Kubernetes API, Container.command: unknown names stay as they are, `$$` is one `$` and shields what follows.
 */

/** The text with known names replaced. */
export function expandVariables(text: string, variables: ReadonlyMap<string, string>): string {
  return text.replaceAll(/\$\$|\$\(([^)]*)\)/g, (match, name: string | undefined) => (match === '$$' ? '$' : ((name === undefined ? undefined : variables.get(name)) ?? match)));
}
