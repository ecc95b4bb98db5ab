// Starts `curvlang lsp` and connects VS Code to it.
const vscode = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

exports.activate = function () {
  const command = vscode.workspace.getConfiguration("curvlang").get("command", "curvlang");
  client = new LanguageClient(
    "curvlang",
    "curvlang",
    { command, args: ["lsp"] },
    { documentSelector: [{ language: "curvlang" }] },
  );
  return client.start();
};

exports.deactivate = function () {
  return client?.stop();
};
