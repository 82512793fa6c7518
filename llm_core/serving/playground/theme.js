// Before anything is painted, so that a page in the dark does not flash.
"use strict";
document.documentElement.dataset.theme = localStorage.getItem("tidemill.theme") || "auto";
